"""The encoder: long rows are cut, choices, odd vocabularies, and what must not change the tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
from jinja2 import TemplateError
from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from finetune_trainer.text.choices import ChoiceSet, score_end_tokens
from finetune_trainer.text.encode import Encoder, Example, NoRoom, tokenizer_digest
from finetune_trainer.text.template.conversation import Message
from tests.support.encode_kit import (
    BOS,
    NO_END,
    decode,
    encode,
    ids_of,
    with_template,
)
from tests.support.tiny_tokenizer import CHAT_TEMPLATE, make_tokenizer

# Cutting.


@pytest.mark.parametrize("spare", range(1, 8))
def test_a_long_plain_prompt_loses_its_beginning_but_not_bos_or_the_completion(folder: Path, spare: int) -> None:
    tokenizer = make_tokenizer(folder / "cutbos", chat=False, bos=True)
    whole = encode(Encoder(tokenizer, max_length=512), "one two three four five six seven", "positive")
    length = len(whole.completion) + 1 + spare
    result = encode(Encoder(tokenizer, max_length=length), "one two three four five six seven", "positive")
    assert (result.prompt, result.shortened) == ((BOS, *whole.prompt[-spare:]), ("prompt",))
    assert result.completion == whole.completion
    assert isinstance(result.source, str)
    assert encode(Encoder(tokenizer, max_length=512), result.source, "positive").prompt == result.prompt
    assert len(ids_of(result)) == length


@pytest.mark.parametrize("spare", [1, 2, 5])
def test_a_long_chat_prompt_loses_the_beginning_of_the_users_text_alone(
    chat: PreTrainedTokenizerFast, spare: int
) -> None:
    text = "The film was great, I loved it. The plot was thin."
    whole = encode(Encoder(chat, max_length=512), text, "positive")
    content = chat.encode(text)
    around = len(whole.prompt) - len(content)
    result = encode(Encoder(chat, max_length=around + spare + len(whole.completion)), text, "positive")
    assert result.truncated
    assert result.completion == whole.completion
    kept = decode(chat, content[-spare:])
    assert decode(chat, result.prompt) == f"<|im_start|>user\n{kept}<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("fixture", ["plain", "chat"])
def test_a_prompt_of_which_no_text_would_be_left_has_no_room(fixture: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(fixture)
    text = "The film was great, I loved it."
    whole = encode(Encoder(tokenizer, max_length=512), text, "positive")
    least = len(ids_of(whole)) - len(tokenizer.encode(text)) + 1
    assert encode(Encoder(tokenizer, max_length=least), text, "positive").truncated
    assert isinstance(encode(Encoder(tokenizer, max_length=least - 1), text, "positive"), NoRoom)


def test_a_row_that_just_fits_is_not_cut(chat: PreTrainedTokenizerFast) -> None:
    whole = encode(Encoder(chat, max_length=512), "a text", "b")
    exact = encode(Encoder(chat, max_length=len(ids_of(whole))), "a text", "b")
    assert exact == whole
    assert encode(Encoder(chat, max_length=len(ids_of(whole)) - 1), "a text", "b").truncated


@pytest.mark.parametrize("fixture", ["plain", "chat"])
def test_a_completion_that_does_not_fit_is_told_from_a_bad_row(fixture: str, request: pytest.FixtureRequest) -> None:
    encoder = Encoder(request.getfixturevalue(fixture), max_length=16)
    result = encode(encoder, "a", "x y z " * 10)
    assert isinstance(result, NoRoom)
    assert "leaves no room for the prompt in training.maxLength 16" in result.why
    assert result.why.startswith("its completion of 6")


def test_the_prompt_leaves_room_for_the_longest_choice(plain: PreTrainedTokenizerFast) -> None:
    encoder = Encoder(plain, max_length=24)
    choices = ("b", "one two three four")
    result = encode(encoder, "The film was great, I loved it. " * 3, "b", choices)
    longest = len(encoder.choices(choices).ids[1])
    assert len(result.prompt) + longest + 1 == 24
    assert "its longest choice of" in encode(encoder, "a", "b", ("b", "x y z " * 20)).why


def test_a_long_conversation_loses_its_oldest_turns_first(chat: PreTrainedTokenizerFast) -> None:
    turns = [Message(("user", "assistant")[i % 2], f"turn {i}: the film was great") for i in range(7)]
    system = Message("system", "Be brief.")
    whole = encode(Encoder(chat, max_length=4000), (system, *turns), "ok")
    result = encode(Encoder(chat, max_length=len(ids_of(whole)) - 1), (system, *turns), "ok")
    expected = encode(Encoder(chat, max_length=4000), (system, *turns[2:]), "ok")
    assert (result.prompt, result.truncated) == (expected.prompt, True)


def test_a_greeting_goes_before_the_question_that_follows_it(chat: PreTrainedTokenizerFast) -> None:
    turns = [Message(("assistant", "user")[i % 2], f"turn {i}: the film was great") for i in range(4)]
    whole = encode(Encoder(chat, max_length=4000), tuple(turns), "ok")
    result = encode(Encoder(chat, max_length=len(ids_of(whole)) - 1), tuple(turns), "ok")
    expected = encode(Encoder(chat, max_length=4000), tuple(turns[1:]), "ok")
    assert (result.prompt, result.truncated) == (expected.prompt, True)


def test_of_a_greeting_and_a_long_question_the_question_is_left(chat: PreTrainedTokenizerFast) -> None:
    turns = (Message("assistant", "Hello"), Message("user", "c " * 99))
    result = encode(Encoder(chat, max_length=60), turns, "ok")
    assert len(ids_of(result)) == 60
    assert "Hello" not in decode(chat, result.prompt)


def test_a_conversation_with_one_long_turn_loses_the_middle_of_its_text_and_keeps_the_system_turn(
    chat: PreTrainedTokenizerFast,
) -> None:
    turns = (
        Message("system", "Be brief."),
        Message("user", "a"),
        Message("assistant", "b"),
        Message("user", "c " * 99),
    )
    result = encode(Encoder(chat, max_length=60), turns, "ok")
    assert len(ids_of(result)) == 60
    text = decode(chat, result.prompt)
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
    assert text.endswith(" c c<|im_end|>\n<|im_start|>assistant\n") or text.endswith(
        "c c <|im_end|>\n<|im_start|>assistant\n"
    )


# Choices.


def test_choices_have_the_tokens_of_completions(chat: PreTrainedTokenizerFast, plain: PreTrainedTokenizerFast) -> None:
    for tokenizer in (chat, plain):
        encoder = Encoder(tokenizer, max_length=512)
        choices = encoder.choices(("positive", "negative"))
        assert choices.texts == ("positive", "negative")
        for text, ids in zip(choices.texts, choices.ids, strict=True):
            assert (*ids, *encoder.end_ids) == encode(encoder, "a", text).completion


def test_choices_that_are_the_same_tokens_are_refused(folder: Path) -> None:
    tokenizer = make_tokenizer(folder / "lower", chat=False)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(ValueError, match="choices 'Yes' and 'yes' are the same tokens"):
        Encoder(tokenizer, max_length=512).choices(("Yes", "no", "yes"))


@pytest.mark.parametrize(
    ("sets", "needed"),
    [
        ([], False),
        ([[(1, 2), (3,)]], False),
        ([[(1, 2), (1, 3)]], False),
        ([[(1, 2), (3,), (1,)]], True),
        ([[(1, 2, 3), (1, 3), (1, 2)]], True),
        ([[(5,), (6,)], [(1,), (1, 1)]], True),
        ([[(1,), (2,)], [(1, 1), (2, 2)]], False),
    ],
)
def test_end_tokens_are_scored_where_one_choice_begins_another(sets: list[list[tuple[int, ...]]], needed: bool) -> None:
    assert score_end_tokens([ChoiceSet(tuple(map(str, ids)), tuple(ids)) for ids in sets]) is needed


# SentencePiece-like vocabularies.


@pytest.fixture(scope="module")
def metaspace() -> PreTrainedTokenizerFast:
    """Puts a blank before the first word of every text, as Llama 2's tokenizer does."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    bpe.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=["<pad>", "<eos>", "<unk>"], show_progress=False)
    bpe.train_from_iterator(["Sentiment:", "positive", "negative", "user:\na", "assistant:\nb"] * 2, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def test_a_vocabulary_that_begins_texts_with_a_blank_gives_one_blank_before_a_completion(
    metaspace: PreTrainedTokenizerFast,
) -> None:
    assert metaspace.encode(" positive") != metaspace.encode("positive")
    result = encode(Encoder(metaspace, max_length=512), "Sentiment:", "positive")
    assert ids_of(result) == [*metaspace.encode("Sentiment: positive"), 1]


def test_such_a_vocabulary_gives_no_blank_after_a_chat_templates_line_end(
    folder: Path, metaspace: PreTrainedTokenizerFast
) -> None:
    metaspace.chat_template = NO_END.replace("assistant: ", "assistant:\n").replace("}}: ", "}}:\n")
    try:
        result = encode(Encoder(metaspace, max_length=512), "a", "positive")
    finally:
        metaspace.chat_template = None
    whole = metaspace.encode("user:\na\nassistant:\npositive", add_special_tokens=False)
    assert ids_of(result) == [*whole, 1]


# Batches, cache, digest.


def test_a_row_has_the_same_tokens_whatever_stands_beside_it(chat: PreTrainedTokenizerFast) -> None:
    examples = [Example(f"line {i}", f"text {i} " * i, ("good", "bad")[i % 2]) for i in range(1, 30)]
    encoder = Encoder(chat, max_length=64)
    together = encoder.encode(examples)
    assert together == [encoder.encode([e])[0] for e in examples]
    assert together == [Encoder(chat, max_length=64).encode([e])[0] for e in examples]
    assert encoder.encode([]) == []


def test_padding_and_truncation_set_on_the_tokenizer_change_nothing(folder: Path) -> None:
    tokenizer = make_tokenizer(folder / "state")
    digest, before = tokenizer_digest(tokenizer), encode(Encoder(tokenizer, max_length=512), "a text", "b")
    tokenizer(["a", "a b c"], padding="max_length", truncation=True, max_length=4)
    assert tokenizer_digest(tokenizer) == digest
    assert encode(Encoder(tokenizer, max_length=512), "a text", "b") == before


def test_the_tokenizer_digest_is_that_of_the_stored_tokenizer(folder: Path, chat: PreTrainedTokenizerFast) -> None:
    assert tokenizer_digest(AutoTokenizer.from_pretrained(folder / "chat")) == tokenizer_digest(chat)


def test_the_tokenizer_digest_changes_with_vocabulary_template_and_special_tokens(folder: Path) -> None:
    made = [
        make_tokenizer(folder / "d1"),
        make_tokenizer(folder / "d2", vocab_size=400),
        make_tokenizer(folder / "d3", bos=True),
        make_tokenizer(folder / "d4", chat=False),
        with_template(folder / "d5", CHAT_TEMPLATE + " "),
    ]
    made.append(make_tokenizer(folder / "d6"))
    made[-1].eos_token = "<|im_end|>"
    assert len({tokenizer_digest(t) for t in made}) == len(made)


def test_an_error_of_the_chat_template_is_jinjas_own() -> None:
    """``raise_exception`` in chat templates raises what the encoder catches."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    with pytest.raises(TemplateError, match="why"):
        _compile_jinja_template("{{ raise_exception('why') }}").render()
