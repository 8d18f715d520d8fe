"""The encoder: what a row's tokens are, with and without a chat template, short and cut."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import TemplateError
from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from finetune_api.reasons import Reason
from finetune_trainer.encode import Encoded, Encoder, Example, score_end_tokens, tokenizer_digest
from finetune_trainer.errors import StageError
from finetune_trainer.prepared import ChoiceSet
from finetune_trainer.template.fields import Message
from tests.support.tiny_tokenizer import CHAT_TEMPLATE, make_tokenizer

EOS, BOS, TURN_START, TURN_END = 1, 2, 3, 4

texts = st.text(min_size=1, max_size=40).map(str.strip).filter(bool).filter(lambda t: "<" not in t)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizers")


@pytest.fixture(scope="module")
def chat(folder: Path) -> PreTrainedTokenizerFast:
    return make_tokenizer(folder / "chat")


@pytest.fixture(scope="module")
def plain(folder: Path) -> PreTrainedTokenizerFast:
    return make_tokenizer(folder / "plain", chat=False)


def with_template(folder: Path, template: str, **more: Any) -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer(folder, **more)
    tokenizer.chat_template = template
    return tokenizer


def encode(encoder: Encoder, prompt: str | tuple[Message, ...], completion: str, choices: tuple[str, ...] = ()) -> Any:
    (result,) = encoder.encode([Example("line 1", prompt, completion, choices)])
    return result


def ids_of(result: Encoded) -> list[int]:
    return [*result.prompt, *result.completion]


def conversation(tokenizer: PreTrainedTokenizerBase, *contents: str, ask: bool = False, **more: Any) -> list[int]:
    roles = ("user", "assistant")
    turns = [{"role": roles[i % 2], "content": c} for i, c in enumerate(contents)]
    batch: Any = tokenizer.apply_chat_template(turns, add_generation_prompt=ask, return_dict=True, **more)
    return list(batch["input_ids"])


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids)))


# The oracle: the tokenizer's own rendering of the whole conversation.


@given(prompt=texts, completion=texts)
def test_a_chat_row_has_the_tokens_of_the_rendered_conversation_up_to_the_end_of_the_turn(
    chat: PreTrainedTokenizerFast, prompt: str, completion: str
) -> None:
    result = encode(Encoder(chat, max_length=512), prompt, completion)
    whole = conversation(chat, prompt, completion)
    assert decode(chat, whole[len(ids_of(result)) :]) == "\n"
    assert ids_of(result) == whole[: len(ids_of(result))]
    assert list(result.prompt) == conversation(chat, prompt, ask=True)
    assert result.completion[-1] == TURN_END
    assert not result.truncated


@given(contents=st.lists(texts, min_size=4, max_size=4))
def test_a_conversation_of_many_turns_has_the_tokens_of_its_rendering(
    chat: PreTrainedTokenizerFast, contents: list[str]
) -> None:
    roles = ["user", "assistant", "user"]
    messages = tuple(Message(r, c) for r, c in zip(roles, contents, strict=False))
    result = encode(Encoder(chat, max_length=512), messages, contents[3])
    assert list(result.prompt) == conversation(chat, *contents[:3], ask=True)
    assert ids_of(result) == conversation(chat, *contents)[:-1]


@given(prompt=texts, completion=texts)
def test_a_plain_row_is_prompt_blank_completion_and_eos(
    plain: PreTrainedTokenizerFast, prompt: str, completion: str
) -> None:
    result = encode(Encoder(plain, max_length=512), prompt, completion)
    assert list(result.prompt) == plain.encode(prompt, add_special_tokens=False)
    assert result.completion[-1] == EOS
    assert list(result.completion[:-1]) == plain.encode(" " + completion, add_special_tokens=False)
    assert decode(plain, ids_of(result)[:-1]) == f"{prompt} {completion}"


def test_the_boundary_gives_the_tokens_of_the_joint_text(plain: PreTrainedTokenizerFast) -> None:
    result = encode(Encoder(plain, max_length=512), "Sentiment:", "positive")
    assert ids_of(result) == [*plain.encode("Sentiment: positive"), EOS]


def test_another_separator_stands_on_the_completions_side(plain: PreTrainedTokenizerFast) -> None:
    result = encode(Encoder(plain, max_length=512, separator="\n\n"), "Say hi.", "Hi.")
    assert list(result.completion) == [*plain.encode("\n\nHi."), EOS]
    assert list(result.prompt) == plain.encode("Say hi.")


def test_a_chat_model_gets_no_separator(chat: PreTrainedTokenizerFast) -> None:
    one, other = (encode(Encoder(chat, max_length=512, separator=s), "a", "b") for s in (" ", "\n\n"))
    assert one == other


# BOS, EOS, end of turn.


@pytest.mark.parametrize("prompt", ["a text", "<bos>a text"])
def test_bos_stands_once_before_a_plain_prompt_and_never_before_a_completion(folder: Path, prompt: str) -> None:
    encoder = Encoder(make_tokenizer(folder / "bos", chat=False, bos=True), max_length=512)
    result = encode(encoder, prompt, "b")
    assert ids_of(result).count(BOS) == 1
    assert result.prompt[0] == BOS


def test_a_tokenizer_that_adds_no_bos_gets_none(plain: PreTrainedTokenizerFast) -> None:
    assert BOS not in ids_of(encode(Encoder(plain, max_length=512), "a", "b"))


def test_a_tokenizer_that_ends_every_text_with_eos_does_not_end_prompts_with_it(folder: Path) -> None:
    tokenizer = make_tokenizer(folder / "eos", chat=False)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", BOS), ("<eos>", EOS)]
    )
    assert tokenizer("a")["input_ids"][-1] == EOS
    result = encode(Encoder(tokenizer, max_length=512), "a text", "b")
    assert result.prompt[0] == BOS
    assert ids_of(result).count(EOS) == 1
    assert ids_of(result)[-1] == EOS


def test_a_chat_template_that_writes_bos_gives_one_even_if_the_tokenizer_adds_one(folder: Path) -> None:
    tokenizer = with_template(folder / "chatbos", "{{ bos_token }}" + CHAT_TEMPLATE, bos=True)
    result = encode(Encoder(tokenizer, max_length=512), "a", "b")
    assert result.prompt[:2] == (BOS, TURN_START)
    assert ids_of(result).count(BOS) == 1


def test_two_bos_are_refused(folder: Path) -> None:
    tokenizer = with_template(folder / "twobos", "{{ bos_token }}{{ bos_token }}" + CHAT_TEMPLATE)
    with pytest.raises(StageError, match="two BOS") as caught:
        encode(Encoder(tokenizer, max_length=512), "a", "b")
    assert caught.value.reason is Reason.MODEL_INVALID


BRACKETS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
NO_END = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
TWO_ENDS = CHAT_TEMPLATE.replace("{% endif %}", "{% else %}{{ eos_token }}{% endif %}")


@pytest.mark.parametrize(
    ("template", "end", "ending"),
    [
        (CHAT_TEMPLATE, [TURN_END], "b<|im_end|>"),
        (BRACKETS, [EOS], " b<eos>"),
        (NO_END, [EOS], "b<eos>"),
        (TWO_ENDS, [TURN_END], "b<|im_end|>"),
        (CHAT_TEMPLATE.replace("<|im_end|>", " .<|im_end|>"), None, "b .<|im_end|>"),
    ],
    ids=["a turn's end", "eos and a blank before the answer", "nothing", "a turn's end and eos", "text, then the end"],
)
def test_an_answer_ends_as_the_chat_template_ends_it_else_with_eos(
    folder: Path, template: str, end: list[int] | None, ending: str
) -> None:
    tokenizer = with_template(folder / "ends", template)
    encoder = Encoder(tokenizer, max_length=512)
    if end is not None:
        assert list(encoder.end_ids) == end
    result = encode(encoder, "a", "b")
    assert decode(tokenizer, result.completion) == ending
    assert result.completion[-len(encoder.end_ids) :] == encoder.end_ids
    if template != NO_END:
        assert ids_of(result) == conversation(tokenizer, "a", "b")[: len(ids_of(result))]


def test_a_tokenizer_without_eos_is_refused(plain: PreTrainedTokenizerFast, folder: Path) -> None:
    tokenizer = make_tokenizer(folder / "noeos", chat=False)
    tokenizer.eos_token = None
    with pytest.raises(StageError, match="no EOS token") as caught:
        Encoder(tokenizer, max_length=512)
    assert caught.value.reason is Reason.MODEL_INVALID


def test_padding_falls_back_to_the_end(folder: Path) -> None:
    tokenizer = make_tokenizer(folder / "nopad", chat=False)
    assert Encoder(tokenizer, max_length=512).pad_id == 0
    tokenizer.pad_token = None
    assert Encoder(tokenizer, max_length=512).pad_id == EOS


@pytest.mark.parametrize("completion", ["b<|im_end|>", "b <|im_end|> c"])
def test_a_completion_that_holds_the_end_token_is_a_bad_row(chat: PreTrainedTokenizerFast, completion: str) -> None:
    result = encode(Encoder(chat, max_length=512), "a", completion)
    assert result == "its completion contains the token that ends an answer"


# Chat templates that can't be used.


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no users here') }}", "can't render a question: no users here"),
        ("{{ messages[0].content.nothing.at.all }}", "can't render a question"),
        (
            "{% for m in messages %}{{ m.content }}|{% endfor %}{% if add_generation_prompt %}think: {% endif %}",
            "generation prompt followed by the answer",
        ),
        ("fixed text", "generation prompt followed by the answer"),
        ("{{ messages[0].content }}", "generation prompt followed by the answer"),
    ],
)
def test_a_chat_template_that_does_not_answer_its_own_prompt_is_refused(
    folder: Path, template: str, message: str
) -> None:
    with pytest.raises(StageError) as caught:
        Encoder(with_template(folder / "bad", template), max_length=512)
    assert caught.value.reason is Reason.MODEL_INVALID
    assert message in caught.value.message


def test_a_conversation_that_renders_otherwise_once_answered_names_its_row(folder: Path) -> None:
    template = CHAT_TEMPLATE.replace("<|im_start|>{{", "{{ messages | length if messages | length > 3 }}<|im_start|>{{")
    encoder = Encoder(with_template(folder / "count", template), max_length=512)
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    with pytest.raises(StageError, match=r"conversation of line 1 in another way") as caught:
        encode(encoder, turns, "d")
    assert caught.value.reason is Reason.MODEL_INVALID


def test_a_row_that_the_chat_template_refuses_is_a_bad_row_alone(folder: Path) -> None:
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + CHAT_TEMPLATE
    encoder = Encoder(with_template(folder / "nosystem", template), max_length=512)
    refused = (Message("system", "s"), Message("user", "a"))
    bad, good = encoder.encode([Example("line 1", refused, "b"), Example("line 2", (Message("user", "a"),), "b")])
    assert bad == "the model's chat template refuses it: no system turn"
    assert good == encode(encoder, "a", "b")


def test_messages_without_a_chat_template_are_refused(plain: PreTrainedTokenizerFast) -> None:
    with pytest.raises(StageError, match="needs a model with a chat template") as caught:
        encode(Encoder(plain, max_length=512), (Message("user", "a"),), "b")
    assert caught.value.reason is Reason.TEMPLATE_INVALID


@pytest.mark.parametrize(
    ("code", "shown"), [("%d %b %Y", "01 Jan 2025"), ("%Y-%m-%d", "2025-01-01"), ("%A, %B %-d", "Wednesday, January 1")]
)
def test_a_template_that_prints_the_date_gives_the_same_tokens_every_day(folder: Path, code: str, shown: str) -> None:
    tokenizer = with_template(folder / "date", "\n{{ strftime_now('" + code + "') }}\n" + CHAT_TEMPLATE)
    result = encode(Encoder(tokenizer, max_length=512), "a", "b")
    assert decode(tokenizer, result.prompt) == f"\n{shown}\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"


def test_a_template_that_leaves_room_for_reasoning_is_told_not_to(folder: Path) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and enable_thinking is false %}"
        "<think></think>{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>"
        "assistant\n{% if enable_thinking is false %}<think></think>{% endif %}{% endif %}"
    )
    tokenizer = with_template(folder / "think", template)
    result = encode(Encoder(tokenizer, max_length=512), "a", "b")
    assert list(result.prompt) == conversation(tokenizer, "a", ask=True, enable_thinking=False)
    assert decode(tokenizer, result.completion) == "b<|im_end|>"


# Cutting.


@pytest.mark.parametrize("spare", range(1, 8))
def test_a_long_plain_prompt_loses_its_beginning_but_not_bos_or_the_completion(folder: Path, spare: int) -> None:
    tokenizer = make_tokenizer(folder / "cutbos", chat=False, bos=True)
    whole = encode(Encoder(tokenizer, max_length=512), "one two three four five six seven", "positive")
    length = len(whole.completion) + 1 + spare
    result = encode(Encoder(tokenizer, max_length=length), "one two three four five six seven", "positive")
    assert result == Encoded((BOS, *whole.prompt[-spare:]), whole.completion, truncated=True)
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
def test_a_prompt_of_which_no_text_would_be_left_is_a_bad_row(fixture: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(fixture)
    text = "The film was great, I loved it."
    whole = encode(Encoder(tokenizer, max_length=512), text, "positive")
    least = len(ids_of(whole)) - len(tokenizer.encode(text)) + 1
    assert encode(Encoder(tokenizer, max_length=least), text, "positive").truncated
    assert isinstance(encode(Encoder(tokenizer, max_length=least - 1), text, "positive"), str)


def test_a_row_that_just_fits_is_not_cut(chat: PreTrainedTokenizerFast) -> None:
    whole = encode(Encoder(chat, max_length=512), "a text", "b")
    exact = encode(Encoder(chat, max_length=len(ids_of(whole))), "a text", "b")
    assert exact == whole
    assert encode(Encoder(chat, max_length=len(ids_of(whole)) - 1), "a text", "b").truncated


@pytest.mark.parametrize("fixture", ["plain", "chat"])
def test_a_completion_that_does_not_fit_is_a_bad_row(fixture: str, request: pytest.FixtureRequest) -> None:
    encoder = Encoder(request.getfixturevalue(fixture), max_length=16)
    result = encode(encoder, "a", "x y z " * 10)
    assert isinstance(result, str)
    assert "leaves no room for the prompt in training.maxLength 16" in result
    assert result.startswith("its completion of 6")


def test_the_prompt_leaves_room_for_the_longest_choice(plain: PreTrainedTokenizerFast) -> None:
    encoder = Encoder(plain, max_length=24)
    choices = ("b", "one two three four")
    result = encode(encoder, "The film was great, I loved it. " * 3, "b", choices)
    longest = len(encoder.choices(choices).ids[1])
    assert len(result.prompt) + longest + 1 == 24
    assert "its longest choice of" in encode(encoder, "a", "b", ("b", "x y z " * 20))


def test_a_long_conversation_loses_its_oldest_turns_first(chat: PreTrainedTokenizerFast) -> None:
    turns = [Message(("user", "assistant")[i % 2], f"turn {i}: the film was great") for i in range(7)]
    system = Message("system", "Be brief.")
    whole = encode(Encoder(chat, max_length=4000), (system, *turns), "ok")
    result = encode(Encoder(chat, max_length=len(ids_of(whole)) - 1), (system, *turns), "ok")
    expected = encode(Encoder(chat, max_length=4000), (system, *turns[2:]), "ok")
    assert (result.prompt, result.truncated) == (expected.prompt, True)


def test_a_conversation_with_one_long_turn_loses_the_beginning_of_its_text_and_keeps_the_system_turn(
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
