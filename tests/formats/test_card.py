"""The model card, read back by the hub's own client."""

from __future__ import annotations

from dataclasses import replace

from huggingface_hub import ModelCard

from ssd1b.formats.card import Facts, card
from ssd1b.plan import catalog

STAGE = {
    "name": "one",
    "teacher": "a/b@1234567",
    "steps": 5,
    "batch": 8,
    "learning_rate": 1e-5,
    "losses": "x",
}
FACTS = Facts("small", catalog.find("ssd-1b"), [STAGE], "source `mini`, seed 0.", {"task": 0.25})


def test_the_hub_reads_the_front_matter() -> None:
    data = ModelCard(card(FACTS)).data
    assert data.license == "openrail++" and data.base_model == ["a/b"]
    assert data.library_name == "diffusers" and data.pipeline_tag == "text-to-image"


def test_a_card_says_what_was_kept_and_how_it_was_trained() -> None:
    text = card(FACTS)
    assert "1,331,334,404" in text and "2,567,463,684" in text and "52%" in text
    assert "| `mid_block.attentions.0` | 10 | removed |" in text
    assert "| one | a/b@1234567 | 5 | 8 | 1e-05 | x |" in text and "| task | 0.25 |" in text
    assert "not evaluated yet" in text
    assert "not evaluated yet" not in card(replace(FACTS, scores={"right": 0.5}))


def test_a_card_does_not_tell_where_files_lay_and_claims_no_licence_it_does_not_know() -> None:
    text = card(replace(FACTS, stages=[STAGE | {"teacher": "/home/me/secret/teacher"}]))
    assert "secret" not in text and "| teacher |" in text
    assert ModelCard(text).data.license == "unknown"
