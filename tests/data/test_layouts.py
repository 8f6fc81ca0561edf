"""What fields beside a picture mean."""

from __future__ import annotations

import pytest

from ssd1b.base.errors import DataError
from ssd1b.data.layouts import clean_prompt, layout


@pytest.mark.parametrize(
    ("prompt", "caption"),
    [
        ("a fox in snow --ar 16:9 --v 5", "a fox in snow"),
        ("a fox --niji 5 --style raw --s 750", "a fox"),
        ("a fox, snow , --no text, people", "a fox, snow"),
        ("a fox —ar 3:2 —v 5.1", "a fox"),
        ("https://s.mj.run/abc <https://x.y/z.png> a red fox::2 blue snow::-.5 --q 2", "a red fox blue snow"),
        (
            "a well-known state-of-the-art fox -- not a switch",
            "a well-known state-of-the-art fox -- not a switch",
        ),
        ("--ar 2:3", ""),
    ],
)
def test_a_midjourney_prompt_loses_its_switches_links_and_weights(prompt, caption) -> None:
    assert clean_prompt(prompt) == caption


def test_midjourney_grids_are_told_from_upscales() -> None:
    read = layout("midjourney")
    upscale = read({"clean_prompts": "a fox --v 5", "upscaled": True}, "")
    assert (upscale.caption, upscale.flags, upscale.unfit) == ("a fox", ("upscaled",), "")
    grid = read({"clean_prompts": "a fox", "upscaled": False}, "")
    assert (grid.flags, grid.unfit) == ((), "grid of four")
    said = read({"Content": "**a fox, snow --ar 3:2 --v 5** - Image #2 <@12>"}, "")
    assert (said.caption, said.flags, said.unfit) == ("a fox, snow", ("upscaled",), "")
    assert read({"Content": "**a fox --v 5** - <@12> (fast)"}, "").unfit == "grid of four"
    assert read({"prompt": "a fox --v 5"}, "").unfit == ""


def test_grit_keeps_the_caption_and_the_similarity() -> None:
    told = {
        "key": "000373938",
        "caption": " a wire  hanger with a paper cover ",
        "noun_chunks": [[19, 32, 0.02, 0.16, 0.96, 0.9, 0.53]],
        "clip_similarity_vitb32": 0.353,
        "clip_similarity_vitl14": 0.296,
        "width": 1024,
    }
    words = layout("grit")(told, "")
    assert words.caption == "a wire hanger with a paper cover" and words.scores == {"similarity": 0.296}


def test_scores_are_taken_where_they_are_numbers() -> None:
    words = layout("plain")({"text": "x", "aesthetic": 5.5, "punsafe": 0.1, "similarity": float("nan")}, "")
    assert words.scores == {"aesthetic": 5.5, "nsfw": 0.1}
    assert layout("plain")({"text": "x", "NSFW": "UNLIKELY", "other": "y"}, "other").caption == "y"


def test_a_layout_nobody_knows_is_refused() -> None:
    with pytest.raises(DataError, match="Did you mean 'midjourney'"):
        layout("mid-journey")
