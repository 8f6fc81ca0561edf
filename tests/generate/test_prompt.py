"""Weights, BREAK and long prompts, against a plain reference and by what must hold for any text."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.tiny import MAX_TOKENS, tiny_pipeline, tiny_tokenizer

from ssd1b.base.errors import RequestError
from ssd1b.generate import prompt
from ssd1b.generate.engines.fake import FakeDenoiser
from ssd1b.generate.load import read_model
from ssd1b.generate.model import Model
from ssd1b.generate.pipeline import batches, sample_latents
from ssd1b.generate.prompt import Span, encoded, n_parts, parse
from ssd1b.generate.request import Request, request_of
from ssd1b.models.device import choose
from ssd1b.models.encoders import TextStack

ROOM = MAX_TOKENS - 2  # the tiny tokenizer has one token a letter
STRANGE = ["", " ", "🦊", "𓀀\u200d", "<|endoftext|>", "<lora:x:1>", "((", "))", "]]:1.2)", ":", "\\", "BREAK"]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=80) | st.sampled_from(STRANGE)
MARKUP = st.lists(st.sampled_from(["(", ")", "[", "]", ":1.2)", "\\(", "a", "fox ", ",", " BREAK ", "🦊"]))
WORDS = st.text("abcdefgh ,.", max_size=60)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return read_model("tiny", tiny_pipeline(tmp_path_factory.mktemp("tiny") / "model"), choose("cpu"))


@pytest.fixture(scope="module")
def text(model: Model) -> TextStack:
    return model.text


def reference(text: TextStack, pairs: list[tuple[str, float]]) -> tuple[torch.Tensor, torch.Tensor]:
    """One part, written down plainly: encode the tokens unweighted, then multiply each by its weight."""
    contexts, pooled = [], None
    for tokenizer, encoder in zip(text.tokenizers, text.encoders, strict=True):
        ids, weights = [tokenizer.bos_token_id], [1.0]
        for words, weight in pairs:
            said = tokenizer(words, add_special_tokens=False).input_ids
            ids += said
            weights += [weight] * len(said)
        ids.append(tokenizer.eos_token_id)
        ids += [tokenizer.pad_token_id] * (MAX_TOKENS - len(ids))
        weights += [1.0] * (MAX_TOKENS - len(weights))
        with torch.inference_mode():
            hidden, pooled = encoder.hidden(torch.tensor([ids]))
        contexts.append(hidden * torch.tensor(weights)[None, :, None])
    assert pooled is not None
    return torch.cat(contexts, dim=-1), pooled


@pytest.mark.parametrize(
    ("said", "spans"),
    [
        ("a fox", [("a fox", 1.0)]),
        ("a (fox)", [("a ", 1.0), ("fox", 1.1)]),
        ("a ((fox))", [("a ", 1.0), ("fox", 1.1 * 1.1)]),
        ("a (fox:1.3) there", [("a ", 1.0), ("fox", 1.3), (" there", 1.0)]),
        ("a [fox]", [("a ", 1.0), ("fox", 1 / 1.1)]),
        ("(a (fox:1.5):0.5)", [("a ", 0.5), ("fox", 0.75)]),
        ("(fox:-1)", [("fox", -1.0)]),
        (r"a \(fox\) \[here\] \\", [(r"a (fox) [here] \ ".rstrip(), 1.0)]),
        ("un(believ:1.0)able", [("unbelievable", 1.0)]),
        ("a (fox", [("a ", 1.0), ("fox", 1.1)]),
        ("a [fox", [("a ", 1.0), ("fox", 1 / 1.1)]),
        ("a fox) here]", [("a fox) here]", 1.0)]),
        ("12:30, ratio 1:1.5)", [("12:30, ratio 1:1.5)", 1.0)]),
        ("(a: b)", [("a: b", 1.1)]),
        ("(fox:1.2.3)", [("fox:1.2.3", 1.1)]),
        ("", []),
        ("()", []),
    ],
)
def test_a_prompt_is_read_as_a1111_reads_it(said: str, spans: list[tuple[str, float]]) -> None:
    assert [(span.text, pytest.approx(span.weight)) for span in parse(said)[0]] == spans
    assert len(parse(said)) == 1


def test_break_begins_a_new_part_also_inside_brackets() -> None:
    assert parse("a fox BREAK a pizza") == [[Span("a fox")], [Span("a pizza")]]
    assert parse("(a BREAK b:1.2)") == [[Span("a", 1.2)], [Span("b", 1.2)]]
    assert parse("BREAKFAST at dawn") == [[Span("BREAKFAST at dawn")]]


@settings(max_examples=60, deadline=None)
@given(said=WORDS)
@example(said="a fox, flat style, here")
def test_a_prompt_without_marks_is_encoded_to_the_bit_as_before(said: str) -> None:
    text = _TEXT[0]
    if len(text.tokenizers[0](said, verbose=False).input_ids) > MAX_TOKENS:
        said = said[:10]
    ours, before = encoded(text, said), text.encode([said])
    assert torch.equal(ours.context_BTC, before.context_BTC)
    assert torch.equal(ours.pooled_BC, before.pooled_BC)


@settings(max_examples=40, deadline=None)
@given(said=st.text("abcdefgh ", max_size=15))
def test_a_weight_of_one_changes_nothing(said: str) -> None:
    plain, weighted = (encoded(_TEXT[0], each) for each in (said, f"({said}:1.0)"))
    assert torch.equal(plain.context_BTC, weighted.context_BTC)


@settings(max_examples=40, deadline=None)
@given(
    pairs=st.lists(
        st.tuples(
            st.text("abcdefgh ", min_size=1, max_size=5), st.sampled_from([0.0, 0.5, 1.0, 1.25, 2.0, -1.0])
        ),
        min_size=1,
        max_size=4,
    )
)
def test_weights_multiply_what_the_encoders_say_and_leave_the_pooled_text_alone(
    pairs: list[tuple[str, float]],
) -> None:
    said = "".join(f"({words}:{weight})" for words, weight in pairs)
    merged: list[tuple[str, float]] = []
    for words, weight in pairs:
        if merged and merged[-1][1] == weight:
            merged[-1] = (merged[-1][0] + words, weight)
        else:
            merged.append((words, weight))
    context, pooled = reference(_TEXT[0], merged)
    ours = encoded(_TEXT[0], said)
    assert torch.equal(ours.context_BTC, context)
    assert torch.equal(ours.pooled_BC, pooled)


def test_a_long_prompt_goes_on_in_parts_each_encoded_by_itself(text: TextStack) -> None:
    long = "abcdefghij" * 5  # 50 letters: parts of 22, 22 and 6
    contexts = []
    for tokenizer, encoder in zip(text.tokenizers, text.encoders, strict=True):
        tokens = tokenizer(long, add_special_tokens=False).input_ids
        rows = []
        for at in (0, ROOM, 2 * ROOM):
            ids = [tokenizer.bos_token_id, *tokens[at : at + ROOM], tokenizer.eos_token_id]
            ids += [tokenizer.pad_token_id] * (MAX_TOKENS - len(ids))
            with torch.inference_mode():
                rows.append(encoder.hidden(torch.tensor([ids])))
        contexts.append(torch.cat([row[0] for row in rows], dim=1))
        pooled = rows[0][1]
    ours = encoded(text, long)
    assert torch.equal(ours.context_BTC, torch.cat(contexts, dim=-1))
    assert torch.equal(ours.pooled_BC, pooled)
    assert n_parts(text, long) == 3


def test_break_lays_parts_end_to_end_and_the_first_gives_the_pooled_text(text: TextStack) -> None:
    ours = encoded(text, "a fox BREAK (a pizza:1.5)")
    first, second = (reference(text, pairs) for pairs in ([("a fox", 1.0)], [("a pizza", 1.5)]))
    assert torch.equal(ours.context_BTC, torch.cat([first[0], second[0]], dim=1))
    assert torch.equal(ours.pooled_BC, first[1])


def test_a_break_before_everything_is_an_empty_part_and_one_after_everything_is_none(text: TextStack) -> None:
    leading, trailing = encoded(text, "BREAK a fox"), encoded(text, "a fox BREAK")
    empty, fox = text.encode([""]), text.encode(["a fox"])
    assert torch.equal(leading.context_BTC, torch.cat([empty.context_BTC, fox.context_BTC], dim=1))
    assert torch.equal(leading.pooled_BC, empty.pooled_BC)
    assert torch.equal(trailing.context_BTC, fox.context_BTC)


def test_a_part_ends_behind_a_comma_that_is_near() -> None:
    tokenizer = tiny_tokenizer()
    words = ["a"] * 19 + [","] + ["b"] * 6  # a comma two before the end of the room of 22
    cut = prompt._cut(tokenizer, " ".join(words), MAX_TOKENS)
    assert [part.ids.index(tokenizer.eos_token_id) - 1 for part in cut] == [20, 6]
    far = ["a"] * 5 + [","] + ["b"] * 20
    cut = prompt._cut(tokenizer, " ".join(far), MAX_TOKENS)
    assert [part.ids.index(tokenizer.eos_token_id) - 1 for part in cut] == [22, 4]


@settings(max_examples=200, deadline=None)
@given(said=TEXT | MARKUP.map("".join))
def test_any_text_at_all_becomes_numbers(said: str) -> None:
    if re.search(r"[(\[]{41}", said):
        return
    ours = encoded(_TEXT[0], said)
    assert torch.isfinite(ours.context_BTC).all() and torch.isfinite(ours.pooled_BC).all()
    assert ours.context_BTC.shape[1] == n_parts(_TEXT[0], said) * MAX_TOKENS


@settings(max_examples=200, deadline=None)
@given(said=TEXT)
def test_escaped_text_is_taken_as_it_stands(said: str) -> None:
    escaped = re.sub(r"([\\()\[\]])", r"\\\1", said)
    spans = [span for part in parse(escaped) for span in part]
    assert all(span.weight == 1 for span in spans)
    assert " ".join(span.text for span in spans).split() == re.sub(r"\s*\bBREAK\b\s*", " ", said).split()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("(fox:101)", "weights go up to 100"),
        ("(" * 41 + "fox", "more than 40 deep"),
        ("((fox:99):-99)", "go up to"),
    ],
)
def test_a_weight_that_cannot_be_meant_is_refused(said: str, why: str) -> None:
    with pytest.raises(RequestError, match=why):
        parse(said)


def test_the_plain_syntax_takes_every_character_as_stock_diffusers_does(text: TextStack) -> None:
    said = "a (fox:1.3) BREAK [b]"
    ours, stock = encoded(text, said, "plain"), text.encode([said])
    assert torch.equal(ours.context_BTC, stock.context_BTC)
    assert n_parts(text, said * 9, "plain") == 1


def _request(**changes: object) -> Request:
    fields = {"prompt": "a fox", "width": 64, "height": 64, "steps": 2, "guidance": 5.0, "scheduler": "euler"}
    return request_of({**fields, "seed": 7, **changes})


def test_the_shorter_of_prompt_and_negative_is_lengthened_by_the_empty_text(model: Model) -> None:
    seen = []

    class Watch(FakeDenoiser):
        def predict_noise(self, latent, step, cond):  # type: ignore[no-untyped-def]
            seen.append(cond.context_BTC)
            return super().predict_noise(latent, step, cond)

    watched = replace(model, denoiser=Watch())
    sample_latents(watched, [_request(negative="a BREAK b")])
    sample_latents(watched, [_request(prompt="a BREAK b")])
    a, b, fox, empty = (model.text.encode([each]).context_BTC for each in ("a", "b", "a fox", ""))
    assert torch.equal(seen[0], torch.cat([torch.cat([a, b], 1), torch.cat([fox, empty], 1)]))
    assert torch.equal(seen[2], torch.cat([torch.zeros_like(seen[2][:1]), torch.cat([a, b], 1)]))


def test_prompts_of_different_lengths_are_made_apart_so_that_neither_changes(model: Model) -> None:
    requests = [_request(), _request(prompt="a BREAK b"), _request(negative="c BREAK d"), _request()]
    assert [len(batch) for batch in batches(requests, 4, model)] == [1, 2, 1]
    together = sample_latents(model, requests[1:3])
    alone = torch.cat([sample_latents(model, [request]) for request in requests[1:3]])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


_TEXT: list[TextStack] = []


@pytest.fixture(autouse=True)
def _remembered(text: TextStack) -> None:
    _TEXT[:] = [text]
