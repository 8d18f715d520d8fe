"""A prompt that is too long loses text of its longest field, never the instruction and the choices."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from finetune_api.job import Template
from finetune_trainer.text.encode import Encoded, Encoder, Example, NoRoom
from finetune_trainer.text.template.catalog import resolve_template
from finetune_trainer.text.template.conversation import Message
from finetune_trainer.text.template.fields import project
from finetune_trainer.text.template.render import Rendered, Renderer, Span
from finetune_trainer.text.template.survey import AnswerSurvey
from tests.support.encode_kit import decode, encode
from tests.support.tokenizer_families import FAMILIES, make_family


def rendered(name: str, row: dict[str, Any], choices: list[str]) -> Rendered:
    template = resolve_template(Template.model_validate({"name": name}))
    survey = AnswerSurvey(template)
    survey.add("line 1", row)
    fields = project(template, row, survey.judge()[0])
    context = {"choices": choices, **fields.inputs, str(template.answer): fields.answer}
    with Renderer.of(template) as renderer:
        (result,) = renderer.render([("line 1", context)])
    assert isinstance(result, Rendered)
    return result


def fitted(tokenizer: PreTrainedTokenizerFast, row: Rendered, spare: int, choices: tuple[str, ...] = ()) -> Encoded:
    """Encode a row whose prompt is too long by some tokens."""
    whole = encode(Encoder(tokenizer, max_length=100_000), row.prompt, row.completion, choices)
    limit = len(whole.prompt) + len(whole.completion) - spare
    example = Example("line 1", row.prompt, row.completion, choices, row.spans)
    (result,) = Encoder(tokenizer, max_length=limit).encode([example])
    assert isinstance(result, Encoded)
    assert limit - 3 <= len(result.prompt) + len(result.completion) <= limit
    assert result.truncated
    assert isinstance(result.source, str)
    again = encode(Encoder(tokenizer, max_length=100_000), result.source, row.completion, choices)
    assert again.prompt == result.prompt  # what is shown is what was encoded
    return result


LONG = " ".join(f"w{n}" for n in range(120))
ROWS: list[tuple[str, dict[str, Any], list[str], str]] = [
    ("sentiment", {"text": LONG, "label": "good"}, ["good", "bad"], "text"),
    ("topic", {"text": LONG, "label": "good"}, ["good", "bad"], "text"),
    ("intent", {"text": LONG, "label": "good"}, ["good", "bad"], "text"),
    ("summarization", {"text": LONG, "summary": "short"}, [], "text"),
    ("nli", {"premise": LONG, "hypothesis": "it is so", "label": "good"}, ["good", "bad"], "premise"),
    ("nli", {"premise": "it is so", "hypothesis": LONG, "label": "good"}, ["good", "bad"], "hypothesis"),
    ("qa", {"context": LONG, "question": "where is it?", "answer": "there"}, [], "context"),
    ("instruction", {"instruction": "Say what it is.", "input": LONG, "output": "it"}, [], "input"),
    ("multiple-choice", {"question": LONG, "choices": ["good", "bad"], "answer": "A"}, ["good", "bad"], "question"),
]


@pytest.mark.parametrize(("name", "row", "choices", "field"), ROWS)
def test_the_longest_field_is_shortened_and_all_else_stays(
    chat: PreTrainedTokenizerFast, name: str, row: dict[str, Any], choices: list[str], field: str
) -> None:
    whole = rendered(name, row, choices)
    result = fitted(chat, whole, 60, ("good", "bad") if choices else ())
    assert result.shortened == (field,)
    before, after = whole.prompt.split(LONG)
    text = decode(chat, result.prompt)
    start, end = f"<|im_start|>user\n{before}", f"{after}<|im_end|>\n<|im_start|>assistant\n"
    assert text.startswith(start)
    assert text.endswith(end)
    kept = text[len(start) : -len(end)]
    assert 100 < len(kept) < len(LONG)
    assert LONG.endswith(kept) if field == "question" else LONG.startswith(kept)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("frame", [True, False])
def test_it_fits_whatever_the_tokenizer(family: str, frame: bool) -> None:
    tokenizer = make_family(family)
    if not frame:
        tokenizer.chat_template = None
    row = rendered("topic", {"text": "the film \u00e9t\u00e9 \U0001f600 <|im_end|> " * 30, "label": "good"}, ["good"])
    result = fitted(tokenizer, row, 50)
    assert result.shortened == ("text",)
    assert result.control_tokens
    assert "What is the topic of the following text?" in decode(tokenizer, result.prompt).replace("<unk>", "")


def test_two_long_fields_end_up_equally_long(chat: PreTrainedTokenizerFast) -> None:
    row = rendered("nli", {"premise": "a " * 90, "hypothesis": "b " * 80, "label": "good"}, ["good"])
    result = fitted(chat, row, 100)
    text = decode(chat, result.prompt)
    assert result.shortened == ("premise", "hypothesis")
    assert abs(text.count("a ") - text.count("b ")) <= 8
    assert "How does the hypothesis relate to the premise?" in text


def test_an_instruction_is_cut_from_its_beginning_only_where_there_is_nothing_else(
    chat: PreTrainedTokenizerFast,
) -> None:
    row = rendered("instruction", {"instruction": LONG, "input": "x y", "output": "it"}, [])
    result = fitted(chat, row, 60)
    assert result.shortened == ("prompt",)
    assert decode(chat, result.prompt).endswith("w119\n\nx y<|im_end|>\n<|im_start|>assistant\n")


def test_a_field_that_is_printed_in_another_form_is_left_alone() -> None:
    with Renderer("{{ a | upper }} {{ b }} {{ b }}", "c", sides={"a": "end", "b": "end"}) as renderer:
        (result,) = renderer.render([("line 1", {"a": "long text", "b": "two"})])
    assert result == Rendered("LONG TEXT two two", "c", (Span("b", 10, 13, "end"), Span("b", 14, 17, "end")))


def test_a_conversation_keeps_both_ends_of_its_last_user_turn(chat: PreTrainedTokenizerFast) -> None:
    turns = (
        Message("system", "Be brief."),
        Message("user", "old"),
        Message("assistant", "older"),
        Message("user", f"Translate this: {LONG} Now translate."),
    )
    result = encode(Encoder(chat, max_length=120), turns, "ok")
    text = decode(chat, result.prompt)
    assert result.shortened == ("messages",)
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nTranslate this: w0")
    assert text.endswith("Now translate.<|im_end|>\n<|im_start|>assistant\n")
    assert " ... " in text


def test_a_system_turn_that_leaves_no_room_is_told_as_such(chat: PreTrainedTokenizerFast) -> None:
    turns = (Message("system", LONG), Message("user", "a b c"))
    assert isinstance(encode(Encoder(chat, max_length=64), turns, "ok"), NoRoom)
