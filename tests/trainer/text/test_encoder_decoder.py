"""Rows for models with an encoder: prompts as a plain call makes them, answers as texts by themselves, each bounded."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.text.encode import Encoder
from finetune_trainer.text.example import Encoded, Example, NoRoom
from finetune_trainer.text.template.conversation import Message
from finetune_trainer.text.template.render import Span
from tests.support.tiny_seq2seq import Kind, make_seq2seq_tokenizer

TEXT = "Text: the man walks by the tower. Intent:"


def encoder_of(folder: Path, kind: Kind, max_length: int = 64) -> tuple[PreTrainedTokenizerBase, Encoder]:
    tokenizer = make_seq2seq_tokenizer(folder, kind)
    return tokenizer, Encoder(tokenizer, max_length=max_length, separator="\n\n", encoder_decoder=True)


def encoded(encoder: Encoder, prompt: str, completion: str, *choices: str) -> Encoded:
    (row,) = encoder.encode([Example("", prompt, completion, choices)])
    assert isinstance(row, Encoded)
    return row


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_a_prompt_is_what_a_plain_call_makes_of_it_end_token_included(tmp_path: Path, kind: Kind) -> None:
    tokenizer, encoder = encoder_of(tmp_path, kind)
    prompt = encoded(encoder, TEXT, "arts").prompt
    assert list(prompt) == tokenizer(TEXT)["input_ids"]
    assert prompt[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_an_answer_is_a_text_by_itself_with_one_end_token(tmp_path: Path, kind: Kind) -> None:
    tokenizer, encoder = encoder_of(tmp_path, kind)
    answer = encoded(encoder, TEXT, "arts", "arts", "bug").completion
    assert list(answer) == [*tokenizer("arts", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    assert (*encoder.choices(["arts", "bug"]).ids[0], tokenizer.eos_token_id) == answer


@pytest.mark.parametrize(("kind", "given"), [("t5", 0), ("bart", 1)])
def test_max_length_bounds_the_answer_by_itself_with_what_it_begins_with(
    tmp_path: Path, kind: Kind, given: int
) -> None:
    tokenizer, encoder = encoder_of(tmp_path, kind)
    long = "the man walks by the tower"
    size = len(encoded(encoder, TEXT, long).completion) + given
    least = max(size, len(tokenizer("a")["input_ids"]))
    exact = Encoder(tokenizer, max_length=least, encoder_decoder=True)
    assert encoded(exact, "a", long).completion == encoded(encoder, "a", long).completion
    (row,) = Encoder(tokenizer, max_length=size - 1, encoder_decoder=True).encode([Example("", "a", long)])
    assert row == NoRoom(f"its completion of {size - given} tokens is more than training.maxLength {size - 1}")


def test_a_longest_choice_that_does_not_fit_is_named(tmp_path: Path) -> None:
    tokenizer, _ = encoder_of(tmp_path, "t5")
    encoder = Encoder(tokenizer, max_length=4, encoder_decoder=True)
    (row,) = encoder.encode([Example("", "a", "arts", ("arts", "the man walks by the tower and the river"))])
    assert isinstance(row, NoRoom)
    assert row.why.startswith("its longest choice of ")


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_a_prompt_that_is_too_long_is_shortened_and_keeps_its_end_token(tmp_path: Path, kind: Kind) -> None:
    tokenizer, _ = encoder_of(tmp_path, kind)
    prompt = f"Text: {'the man walks by the tower ' * 9}Intent:"
    field = Span("text", 6, len(prompt) - 7, "end")
    encoder = Encoder(tokenizer, max_length=24, encoder_decoder=True)
    (row,) = encoder.encode([Example("", prompt, "arts", spans=(field,))])
    assert isinstance(row, Encoded)
    assert isinstance(row.source, str)
    assert len(row.prompt) <= 24
    assert row.shortened == ("text",)
    assert list(row.prompt) == tokenizer(row.source)["input_ids"]
    assert row.source.endswith("Intent:")


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_text_that_spells_an_end_token_ends_nothing(tmp_path: Path, kind: Kind) -> None:
    tokenizer, encoder = encoder_of(tmp_path, kind)
    row = encoded(encoder, "the man </s> walks <pad>", "a </s>")
    assert row.control_tokens
    assert row.prompt.count(tokenizer.eos_token_id) == row.completion.count(tokenizer.eos_token_id) == 1
    assert tokenizer.pad_token_id not in row.prompt


def test_a_conversation_is_refused(tmp_path: Path) -> None:
    _, encoder = encoder_of(tmp_path, "t5")
    with pytest.raises(StageError, match="needs a model with a chat template") as error:
        encoder.encode([Example("", (Message("user", "a"),), "b")])
    assert error.value.reason is Reason.TEMPLATE_INVALID
