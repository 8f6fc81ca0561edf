"""Cut CLIP's byte-pair vocabulary down to the words of the mini world.

The source is `bpe_simple_vocab_16e6.txt.gz` of OpenAI's CLIP (MIT), taken from the `open_clip_torch` wheel.
The result, two tokenizer folders, is committed, so nobody needs to run this to use ssd1b. Run again with:

    pip download --no-deps open_clip_torch && unzip open_clip_torch-*.whl 'open_clip/bpe_simple_vocab_16e6.txt.gz'
    python tools/make_tokenizers.py open_clip/bpe_simple_vocab_16e6.txt.gz
"""

# ruff: noqa: E501, SIM905
from __future__ import annotations

import gzip
import json
import sys
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

from ssd1b.mini.scenes import BACKGROUNDS, NOUNS, PLACE_WORDS, SIZES, STYLES
from ssd1b.mini.train.text import CONTEXT

PARTS = Path(__file__).parents[1] / "src/ssd1b/mini/weights/parts"
WORDS = (
    *NOUNS, *STYLES, *BACKGROUNDS, *SIZES, *" ".join(PLACE_WORDS.values()).split(),
    *"a an the and of to with in style background left right above below under over next beside".split(),
    *"picture photo image drawing emoji icon large tiny little cute color colour dark light bright".split(),
    *"simple two one no not".split(),
)  # fmt: skip


def byte_letters() -> list[str]:
    """The 256 printable stand-ins that GPT-2's byte-level encoding uses, in CLIP's order."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(rest))]


def reduced_vocabulary(merges: list[tuple[str, str]]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's byte-pair vocabulary cut down to the merges that WORDS need; any other text still spells out in bytes."""
    rank = {pair: n for n, pair in enumerate(merges)}
    used: set[tuple[str, str]] = set()
    for word in set(WORDS) - {""}:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            pairs = [pair for pair in pairwise(parts) if pair in rank]
            if not pairs:
                break
            best = min(pairs, key=rank.__getitem__)
            used.add(best)
            at = next(n for n in range(len(parts) - 1) if (parts[n], parts[n + 1]) == best)
            parts[at : at + 2] = ["".join(best)]
    kept = sorted(used, key=rank.__getitem__)
    letters = byte_letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in kept)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: n for n, token in enumerate(dict.fromkeys(tokens))}, kept


def read_merges(path: Path) -> list[tuple[str, str]]:
    """The merges of CLIP's `bpe_simple_vocab_16e6.txt.gz`, in order."""
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    return [(a, b) for a, b in (line.split() for line in lines)]


def make_tokenizers(merges_file: Path, folder: Path) -> None:
    """Write `tokenizer` (padded with the end token) and `tokenizer_2` (padded with '!'), as in SDXL."""
    vocabulary, merges = reduced_vocabulary(read_merges(merges_file))
    for name, pad in (("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")):
        made = CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad, model_max_length=CONTEXT)
        made.save_pretrained(folder / name)
        (folder / name / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
        (folder / name / "merges.txt").write_text(
            "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n"
        )


if __name__ == "__main__":
    make_tokenizers(Path(sys.argv[1]), PARTS)
