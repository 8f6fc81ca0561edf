r"""Prompts as A1111's users write them: weights, BREAK, and as long as they like.

    (word)      1.1 times as strong       (word:1.3)  1.3 times
    [word]      1.1 times as weak         \( \) \[ \] \\  the characters themselves
    BREAK       what follows begins a new part

A part holds what the text encoders take at once: 75 tokens of SDXL's 77, the rest being marks for begin and
end. A longer prompt goes on in a next part, from the last comma if one is near. Each part is encoded by
itself, by both encoders; their hidden states are multiplied by the weights, token by token, and laid end to
end. The pooled text is that of the first part, and no weight touches it. This is what A1111 does with its
emphasis set to "No norm". Does not know wildcards, models or pictures.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Literal

import torch

from ssd1b.base.errors import RequestError
from ssd1b.models.encoders import TextBatch

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

    from ssd1b.models.encoders import TextStack

Syntax = Literal["weighted", "plain"]
STRONGER = 1.1
MAX_WEIGHT, MAX_DEPTH = 100.0, 40
COMMA = ",</w>"
COMMA_WITHIN = 20 / 75
"""How near the end of a part, as a share of it, a comma must be for the next part to begin behind it."""

_PIECES = re.compile(
    r"""
      \\(?P<escaped>[\\()\[\]])
    | :\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)
    | (?P<sign>[()\[\]])
    | (?P<text>[^\\()\[\]:]+ | [\\:])
    """,
    re.VERBOSE,
)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of text of one weight."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Part:
    """What one call of an encoder takes: token ids with their marks and padding, and each one's weight."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


def parse(prompt: str) -> list[list[Span]]:
    """Cut a prompt at its BREAKs, and what lies between them into spans of one weight.

    A bracket that is never closed weighs until the end; one that was never opened is a character.

    Raises:
        RequestError: a weight beyond a hundred, or brackets within brackets within brackets without end.
    """
    spans: list[Span | None] = []  # None: a BREAK
    opened: dict[str, list[int]] = {"(": [], "[": []}
    for piece in _PIECES.finditer(prompt):
        sign, weight = piece["sign"], piece["weight"]
        if sign in opened:
            opened[sign].append(len(spans))
            _refuse_depth(opened)
        elif weight and opened["("]:
            _weigh(spans, opened["("].pop(), float(weight))
        elif sign == ")" and opened["("]:
            _weigh(spans, opened["("].pop(), STRONGER)
        elif sign == "]" and opened["["]:
            _weigh(spans, opened["["].pop(), 1 / STRONGER)
        elif piece["escaped"]:
            spans.append(Span(piece["escaped"]))
        else:
            spans += _between_breaks(piece[0])
    for start in opened["("]:
        _weigh(spans, start, STRONGER)
    for start in opened["["]:
        _weigh(spans, start, 1 / STRONGER)
    return _parts(spans)


def encoded(text: TextStack, prompt: str, syntax: Syntax = "weighted") -> TextBatch:
    """Encode one prompt as one row, (1, parts * T, C) and (1, C); without weights and short, as diffusers.

    Raises:
        RequestError: as `parse` does.
    """
    if syntax == "plain":
        return text.encode([prompt])
    firsts, seconds = (_cut(tokenizer, prompt, text.max_tokens) for tokenizer in text.tokenizers)
    empty = [_cut(tokenizer, "", text.max_tokens)[0] for tokenizer in text.tokenizers]
    rows = []
    for first, second in zip_longest(firsts, seconds):
        pair = first or empty[0], second or empty[1]
        ids_1T = [torch.tensor([part.ids]) for part in pair]
        weights_1T = [torch.tensor([part.weights]) for part in pair]
        rows.append(text.encode_ids((ids_1T[0], ids_1T[1]), (weights_1T[0], weights_1T[1])))
    return TextBatch(torch.cat([row.context_BTC for row in rows], dim=1), rows[0].pooled_BC)


def n_parts(text: TextStack, prompt: str, syntax: Syntax = "weighted") -> int:
    """How many parts a prompt is read in."""
    if syntax == "plain":
        return 1
    return max(len(_cut(tokenizer, prompt, text.max_tokens)) for tokenizer in text.tokenizers)


def lengthened(batch: TextBatch, n_tokens: int, empty: TextBatch) -> TextBatch:
    """Append the encoded empty text (one part) until there are `n_tokens`, as a batch needs it."""
    missing = (n_tokens - batch.context_BTC.shape[1]) // empty.context_BTC.shape[1]
    more_BTC = empty.context_BTC.expand(len(batch), -1, -1)
    return TextBatch(torch.cat([batch.context_BTC, *[more_BTC] * missing], dim=1), batch.pooled_BC)


def _weigh(spans: list[Span | None], start: int, factor: float) -> None:
    for at in range(start, len(spans)):
        span = spans[at]
        if span is not None:
            spans[at] = Span(span.text, span.weight * factor)
            if abs(span.weight * factor) > MAX_WEIGHT:
                raise RequestError(
                    f"The prompt weighs '{span.text.strip()[:40]}' by {span.weight * factor:g}; weights go up"
                    f" to {MAX_WEIGHT:g}. For brackets as they are write \\( and \\)."
                )


def _refuse_depth(opened: dict[str, list[int]]) -> None:
    if sum(map(len, opened.values())) > MAX_DEPTH:
        raise RequestError(
            f"The prompt has brackets within brackets, more than {MAX_DEPTH} deep. Write a weight instead,"
            " (word:1.3), or \\( \\) for brackets as they are."
        )


def _between_breaks(text: str) -> list[Span | None]:
    first, *others = _BREAK.split(text)
    spans: list[Span | None] = [Span(first)]
    for other in others:
        spans += [None, Span(other)]
    return spans


def _parts(spans: Sequence[Span | None]) -> list[list[Span]]:
    """Split at the BREAKs, join neighbours of one weight, drop what is empty."""
    parts: list[list[Span]] = [[]]
    for span in spans:
        if span is None:
            parts.append([])
        elif parts[-1] and parts[-1][-1].weight == span.weight:
            parts[-1][-1] = Span(parts[-1][-1].text + span.text, span.weight)
        elif span.text:
            parts[-1].append(span)
    return parts


def _cut(tokenizer: CLIPTokenizer, prompt: str, max_tokens: int) -> list[Part]:
    """Every part as one encoder takes it; a BREAK at the very end begins none."""
    room, comma = max_tokens - 2, int(tokenizer.convert_tokens_to_ids(COMMA))
    cut = []
    for spans in parse(prompt):
        tokens = [
            (token, span.weight)
            for span in spans
            for token in tokenizer(span.text, add_special_tokens=False, verbose=False).input_ids
        ]
        while len(tokens) > room:
            end = _end(tokens, room, comma)
            cut.append(tokens[:end])
            tokens = tokens[end:]
        cut.append(tokens)
    if len(cut) > 1 and not cut[-1]:
        cut.pop()
    return [_part(tokenizer, tokens, max_tokens) for tokens in cut]


def _end(tokens: Sequence[tuple[int, float]], room: int, comma: int) -> int:
    """Where a part that is too long ends: behind its last comma, if that is near and none follows."""
    if tokens[room][0] == comma:
        return room
    near = range(room - 1, room - 1 - int(room * COMMA_WITHIN), -1)
    return next((at + 1 for at in near if tokens[at][0] == comma), room)


def _part(tokenizer: CLIPTokenizer, tokens: Sequence[tuple[int, float]], max_tokens: int) -> Part:
    begin, end, pad = (
        int(each) for each in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    )
    padding = max_tokens - 2 - len(tokens)
    ids = (begin, *(token for token, _ in tokens), end, *[pad] * padding)
    return Part(ids, (1.0, *(weight for _, weight in tokens), 1.0, *[1.0] * padding))
