"""What the fields beside a picture mean: plain collections, GRIT, the Midjourney scrape.

A layout turns the fields that a source found (a JSON object, a table's row) into caption, scores and flags.
Does not know where the fields come from.

    grit        img2dataset's download of zzliang/GRIT: key, caption, noun_chunks, ref_exps, url, width,
                height, original_width, original_height, clip_similarity_vitb32, clip_similarity_vitl14
    midjourney  wanng/midjourney-v5-202304-clean: Content, clean_prompts, upscaled, Attachments, ...
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ssd1b.base.errors import DataError, did_you_mean

CAPTIONS = ("caption", "text", "prompt", "clean_prompts", "txt")
"""Names that a caption's column usually has, the most certain first."""
SCORES: dict[str, tuple[str, ...]] = {
    "aesthetic": ("aesthetic", "aesthetic_score", "AESTHETIC_SCORE", "aesthetic_score_laion_v2"),
    "nsfw": ("nsfw", "punsafe", "nsfw_score", "NSFW"),
    "similarity": ("clip_similarity_vitl14", "clip_similarity_vitb32", "similarity"),
}
_SWITCH = re.compile(r"\s+(?:--|—|–)[a-zA-Z]\w*.*$", re.DOTALL)
_LINK = re.compile(r"<?https?://\S+>?")
_BOLD = re.compile(r"\*\*(.+?)\*\*", re.DOTALL)
_WEIGHT = re.compile(r"::-?\d*\.?\d*")


@dataclass(frozen=True, slots=True)
class Words:
    """What is known about a picture: `caption` ("" is none), scores, flags, a reason to refuse."""

    caption: str
    scores: Mapping[str, float]
    flags: tuple[str, ...] = ()
    unfit: str = ""


Layout = Callable[[Mapping[str, object], str], Words]


def layout(name: str) -> Layout:
    """A layout by name.

    Raises:
        DataError: no layout has this name.
    """
    if name not in LAYOUTS:
        hint = did_you_mean(name, LAYOUTS) or f" There are: {', '.join(LAYOUTS)}."
        raise DataError(f"No layout is called '{name}'.{hint}")
    return LAYOUTS[name]


def caption_of(fields: Mapping[str, object], column: str = "") -> str:
    """The caption among the fields, blanks put in order: of `column`, or of the first usual name."""
    names = (column,) if column else CAPTIONS
    found = next((fields[name] for name in names if isinstance(fields.get(name), str)), "")
    return " ".join(str(found).split())


def plain(fields: Mapping[str, object], column: str = "") -> Words:
    """Caption and scores, as they are."""
    return Words(caption_of(fields, column), _scores(fields))


def grit(fields: Mapping[str, object], column: str = "") -> Words:
    """GRIT's caption and CLIP similarity; the boxes of noun chunks and referring expressions are not used."""
    return Words(caption_of(fields, column or "caption"), _scores(fields))


def midjourney(fields: Mapping[str, object], column: str = "") -> Words:
    """The prompt without switches; grids of four are refused, upscales flagged.

    `upscaled` tells them apart where it is given; without it the bot's own text in `Content` does.
    """
    said = str(fields.get("Content") or "")
    upscaled = fields.get("upscaled")
    if upscaled is None and said:
        upscaled = "Upscaled" in said or re.search(r"- Image #\d", said) is not None
    text = caption_of(fields, column or ("clean_prompts" if fields.get("clean_prompts") else ""))
    if not text and (bold := _BOLD.search(said)):
        text = bold[1]
    unfit = "grid of four" if upscaled is not None and not _true(upscaled) else ""
    return Words(
        clean_prompt(text), _scores(fields), () if unfit else ("upscaled",) if upscaled else (), unfit
    )


def clean_prompt(prompt: str) -> str:
    """A Midjourney prompt as a caption: no links, no weights (::2), nothing from the first --switch on."""
    plain_text = _LINK.sub(" ", prompt)
    plain_text = _SWITCH.sub("", f" {plain_text}")
    return " ".join(_WEIGHT.sub(" ", plain_text).split()).strip(" ,")


def _true(value: object) -> bool:
    return value.lower() in ("true", "1", "yes") if isinstance(value, str) else bool(value)


def _scores(fields: Mapping[str, object]) -> dict[str, float]:
    scores = {}
    for name, columns in SCORES.items():
        for column in columns:
            value = fields.get(column)
            if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
                scores[name] = float(value)
                break
    return scores


LAYOUTS: dict[str, Layout] = {"plain": plain, "grit": grit, "midjourney": midjourney}
