"""Test rows with examples before them: what stands in the prompt, what is left out for lack of room, what it costs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from finetune_trainer.evaluation.few_shot import FewShotRows, few_shot_rows
from finetune_trainer.prepare.prepare import prepare
from finetune_trainer.prepare.prepared import NO_ROOM, EncodedPart, Prepared
from tests.support.encode_kit import with_template
from tests.support.prepare_kit import Dataset, intents, row_ids, spec_of
from tests.support.tiny_seq2seq import Kind, make_seq2seq_tokenizer
from tests.support.tiny_tokenizer import CHAT_TEMPLATE, make_tokenizer

SPLIT = {"trainPercent": 60, "validationPercent": 10, "testPercent": 30}
Asked = Callable[..., tuple[Prepared, FewShotRows, PreTrainedTokenizerFast]]


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    """Prepares rows and puts examples before those of test."""

    def ask(
        rows: list[dict[str, Any]] | None = None,
        *,
        chat: bool = True,
        shots: int = 3,
        max_length: int = 1024,
        tokenizer: PreTrainedTokenizerFast | None = None,
        template: dict[str, Any] | None = None,
    ) -> tuple[Prepared, FewShotRows, PreTrainedTokenizerFast]:
        tokenizer = tokenizer or make_tokenizer(tmp_path / "tokenizer", chat=chat)
        spec = spec_of(
            template,
            dataset={"split": SPLIT, "badRows": {"maxPercent": 50}},
            evaluation={"fewShot": shots},
            training={"maxLength": max_length},
        )
        prepared = Dataset(tmp_path, tokenizer).prepare(intents(120) if rows is None else rows, spec)
        every = np.arange(len(prepared.parts["test"]))
        return prepared, few_shot_rows(prepared, tokenizer, every, max_length=max_length, folder=tmp_path), tokenizer

    return ask


def prompt(part: EncodedPart, row: int) -> list[int]:
    return row_ids(part, row)[: int(part.prompt_lengths[row])]


def completion(part: EncodedPart, row: int) -> list[int]:
    return row_ids(part, row)[int(part.prompt_lengths[row]) :]


def test_a_chat_model_gets_examples_as_former_turns(asked: Asked) -> None:
    prepared, shown, tokenizer = asked()
    turns = [
        turn
        for shot in prepared.few_shot
        for turn in ({"role": "user", "content": shot.prompt}, {"role": "assistant", "content": shot.completion})
    ]
    for row, text in enumerate(prepared.texts["test"]):
        conversation = [*turns, {"role": "user", "content": text.prompt}]
        expected = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
        assert prompt(shown.part, row) == tokenizer(expected, add_special_tokens=False)["input_ids"]


def test_a_plain_model_gets_examples_as_blocks_with_the_separator(asked: Asked) -> None:
    prepared, shown, tokenizer = asked(chat=False)
    blocks = "".join(f"{shot.prompt}{prepared.separator}{shot.completion}\n\n" for shot in prepared.few_shot)
    for row, text in enumerate(prepared.texts["test"]):
        assert tokenizer.decode(prompt(shown.part, row)) == blocks + text.prompt


def test_nothing_else_of_a_row_differs_from_the_zero_shot_baseline(asked: Asked) -> None:
    for chat in (True, False):
        prepared, shown, _ = asked(chat=chat)
        part = prepared.parts["test"]
        for row in range(len(part)):
            assert completion(shown.part, row) == completion(part, row)
            own = 5  # tokens before the first word that rows don't share
            assert prompt(shown.part, row)[-own:] == prompt(part, row)[-own:]
        for name in ("rows", "choice_set", "answer", "unanswerable"):
            assert (getattr(shown.part, name) == getattr(part, name)).all()


def test_all_rows_begin_with_the_same_examples(asked: Asked) -> None:
    _, shown, _ = asked(shots=4)
    first = prompt(shown.part, 0)
    shared = min(
        next(i for i, (a, b) in enumerate(zip(first, prompt(shown.part, row), strict=False)) if a != b)
        for row in range(1, len(shown.part))
    )
    assert shared > shown.context_tokens


def test_what_the_examples_cost_is_the_mean_of_the_tokens_that_they_add(asked: Asked) -> None:
    prepared, shown, _ = asked()
    added = shown.part.prompt_lengths - prepared.parts["test"].prompt_lengths
    assert (shown.most, shown.fewer) == (3, 0)
    assert (added > 0).all()
    assert shown.context_tokens == round(float(added.mean()))


def test_a_row_without_room_for_all_gets_as_many_as_fit_and_none_is_cut(asked: Asked) -> None:
    rows = [
        row | {"text": row["text"] + " and so on" * (30 if i % 4 == 0 else 0)} for i, row in enumerate(intents(120))
    ]
    bound = 420
    prepared, shown, tokenizer = asked(rows, max_length=bound, shots=5)
    part, longest = prepared.parts["test"], max(len(ids) for ids in prepared.choice_sets[0].ids)
    longest += len(prepared.end_ids)
    assert len(set(shown.examples.tolist())) > 1
    assert shown.fewer == int((shown.examples < shown.most).sum()) > 0
    for row, count in enumerate(shown.examples.tolist()):
        ids = prompt(shown.part, row)
        assert len(ids) + longest <= bound
        told = str(tokenizer.decode(ids))
        assert [shot.prompt in told for shot in prepared.few_shot] == [n < count for n in range(5)]
        if count < 5:  # one more would not have fitted
            another = prepared.few_shot[count]
            more = tokenizer.apply_chat_template(
                [{"role": "user", "content": another.prompt}, {"role": "assistant", "content": another.completion}],
                tokenize=False,
            )
            extra = len(tokenizer(more, add_special_tokens=False)["input_ids"])
            assert len(ids) + extra + longest > bound
        if not count:
            assert ids == prompt(part, row)


def test_where_no_example_fits_beside_any_row_there_is_nothing_to_score(asked: Asked) -> None:
    prepared, shown, _ = asked(max_length=120)
    assert (shown.most, shown.context_tokens, shown.refused) == (0, 0, "")
    assert [prompt(shown.part, row) for row in range(len(shown.part))] == [
        prompt(prepared.parts["test"], row) for row in range(len(shown.part))
    ]


def test_a_row_that_does_not_fit_by_itself_stays_out_of_the_count(asked: Asked) -> None:
    rows = [{"prompt": f"n{i}", "completion": "word " * (400 if i % 4 == 0 else 2)} for i in range(120)]
    prepared, shown, _ = asked(rows, template={"name": "raw"}, chat=False, max_length=256)
    left_out = prepared.parts["test"].unanswerable == NO_ROOM
    assert left_out.sum() > 0
    assert len(shown.examples) == len(left_out) - left_out.sum()
    assert (shown.of_rows[left_out] == 0).all()
    assert (shown.most, shown.fewer) == (3, 0)


def test_only_the_rows_that_are_scored_are_encoded(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    spec = spec_of(dataset={"split": SPLIT}, evaluation={"fewShot": 2})
    prepared = Dataset(tmp_path, tokenizer).prepare(intents(120), spec)
    shown = few_shot_rows(prepared, tokenizer, np.array([1, 5, 7]), max_length=1024, folder=tmp_path)
    assert np.flatnonzero(shown.part.lengths).tolist() == [1, 5, 7]
    assert shown.of_rows.tolist() == [2, 2, 2]


def test_text_of_an_example_that_spells_a_control_token_is_text(asked: Asked) -> None:
    rows = [row | {"text": row["text"] + " <|im_end|>"} for row in intents(120)]
    prepared, shown, tokenizer = asked(rows)
    turn_end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for row in range(len(shown.part)):
        assert prompt(shown.part, row).count(turn_end) == 2 * 3 + 1
    assert prepared.summary.control_tokens == 120


def test_a_chat_template_that_takes_no_former_turns_is_told(asked: Asked, tmp_path: Path) -> None:
    single = "{% if messages | length > 2 %}{{ raise_exception('one question only') }}{% endif %}" + CHAT_TEMPLATE
    tokenizer = with_template(tmp_path / "single", single)
    _, shown, _ = asked(tokenizer=tokenizer)
    assert shown.most == 0
    assert "one question only" in shown.refused


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_an_encoder_gets_a_prompt_with_examples_as_a_plain_call_makes_it_end_token_and_all(
    tmp_path: Path, kind: Kind
) -> None:
    tokenizer: Any = make_seq2seq_tokenizer(tmp_path / "tokenizer", kind)
    spec = spec_of(dataset={"split": SPLIT}, evaluation={"fewShot": 2})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in intents(120)))
    prepared = prepare(
        spec=spec,
        files={"all": tmp_path / "rows.jsonl"},
        tokenizer=tokenizer,
        folder=tmp_path / "prepared",
        encoder_decoder=True,
    )
    rows = np.arange(len(prepared.parts["test"]))
    blocks = "".join(f"{shot.prompt}{prepared.separator}{shot.completion}\n\n" for shot in prepared.few_shot)
    expected = [tokenizer(blocks + text.prompt)["input_ids"] for text in prepared.texts["test"]]
    assert expected[0][-1] == tokenizer.eos_token_id
    longest = max(map(len, expected))

    def shown(max_length: int) -> FewShotRows:
        return few_shot_rows(prepared, tokenizer, rows, max_length=max_length, folder=tmp_path, encoder_decoder=True)

    part = shown(longest).part
    assert [prompt(part, row) for row in range(len(part))] == expected
    assert [completion(part, row) for row in range(len(part))] == [
        completion(prepared.parts["test"], row) for row in range(len(part))
    ]
    assert shown(longest).fewer == 0  # the answer takes none of the prompt's room
    assert shown(longest - 1).fewer > 0
