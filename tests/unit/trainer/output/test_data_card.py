"""The data card says what the encoded rows are: lengths, balance, and why rows don't count."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from finetune_api.status import DatasetSummary, DroppedRows, NearDuplicates
from finetune_trainer.data.parts import Part
from finetune_trainer.output.report.data_card import Spread, _spread, data_card, left_out_rows
from finetune_trainer.prepare.prepared import NO_ROOM, Prepared
from tests.support.tiny_model import learnable_rows, make_prepared
from tests.support.tiny_tokenizer import make_tokenizer

ROWS = learnable_rows(120, seed=9)
PARTS = {"train": ROWS[:70], "validation": ROWS[70:90], "test": ROWS[90:]}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(folder)
    return make_prepared(AutoTokenizer.from_pretrained(folder), PARTS)


def nearest_rank(numbers: list[int], percent: int) -> int:
    return sorted(numbers)[max(0, math.ceil(len(numbers) * percent / 100) - 1)]


def test_lengths_are_those_of_the_encoded_rows_by_nearest_rank(prepared: Prepared) -> None:
    for one in data_card(prepared).lengths:
        part = prepared.parts[one.part]
        prompts = [int(n) for n in part.prompt_lengths]
        rows = [part.tokens[a:b] for a, b in zip(part.offsets[:-1], part.offsets[1:], strict=True)]
        completions = [len(row) - prompt for row, prompt in zip(rows, prompts, strict=True)]
        for spread, numbers in ((one.prompt, prompts), (one.completion, completions)):
            expected = [nearest_rank(numbers, percent) for percent in (0, 50, 95, 100)]
            assert [spread.least, spread.median, spread.most_of, spread.most] == expected
        assert one.rows == len(part)
        assert sum(one.histogram) == len(part)


def test_the_last_bin_holds_the_longest_row_of_all_parts(prepared: Prepared) -> None:
    card = data_card(prepared)
    assert card.longest == max(int(part.lengths.max()) for part in prepared.parts.values())
    assert any(one.histogram[-1] for one in card.lengths)


def test_of_many_rows_the_least_is_that_of_a_single_one() -> None:
    assert _spread(np.arange(1, 301)) == Spread(least=1, median=150, most_of=285, most=300)


def test_labels_are_ordered_by_their_train_rows_whatever_test_has(prepared: Prepared) -> None:
    (choices,) = prepared.choice_sets
    first, last = (
        {name: dataclasses.replace(part, answer=np.full_like(part.answer, number))}
        for name, number, part in (
            ("train", 2, prepared.parts["train"]),
            ("test", 4, prepared.parts["test"]),
        )
    )
    told = data_card(dataclasses.replace(prepared, parts={**prepared.parts, **first, **last})).balance
    assert told[0].label == choices.texts[2]


def test_the_bins_are_twenty_from_nothing_to_the_longest_row(prepared: Prepared) -> None:
    card = data_card(prepared)
    for one in card.lengths:
        expected = [0] * 20
        for length in prepared.parts[one.part].lengths.tolist():
            expected[min(19, length * 20 // card.longest)] += 1
        assert list(one.histogram) == expected


def without_rows(prepared: Prepared, *names: Part) -> Prepared:
    none = {
        name: dataclasses.replace(
            part,
            tokens=part.tokens[:0],
            offsets=part.offsets[:1],
            **{f: getattr(part, f)[:0] for f in ("prompt_lengths", "rows", "choice_set", "answer", "unanswerable")},
        )
        for name, part in prepared.parts.items()
        if name in names
    }
    return dataclasses.replace(prepared, parts={**prepared.parts, **none})


def test_a_part_without_rows_has_no_lengths_and_counts_no_labels(prepared: Prepared) -> None:
    card = data_card(without_rows(prepared, "validation"))
    assert [one.part for one in card.lengths] == ["train", "test"]
    assert {one.validation for one in card.balance} == {0}
    none = data_card(without_rows(prepared, "train", "validation", "test"))
    assert (none.lengths, none.longest) == ((), 0)


def test_a_part_whose_rows_all_do_not_fit_has_no_lengths(prepared: Prepared) -> None:
    test = prepared.parts["test"]
    none = dataclasses.replace(
        test,
        tokens=test.tokens[:0],
        offsets=np.zeros_like(test.offsets),
        prompt_lengths=np.zeros_like(test.prompt_lengths),
        unanswerable=np.full_like(test.unanswerable, NO_ROOM),
    )
    card = data_card(dataclasses.replace(prepared, parts={**prepared.parts, "test": none}))
    assert [one.part for one in card.lengths] == ["train", "validation"]


def test_a_row_that_no_answer_can_be_right_for_has_its_length(prepared: Prepared) -> None:
    test = prepared.parts["test"]
    parts = {**prepared.parts, "test": dataclasses.replace(test, unanswerable=np.full_like(test.unanswerable, 1))}
    assert data_card(dataclasses.replace(prepared, parts=parts)).lengths[2].rows == len(test)


def test_fifty_labels_are_shown_and_the_others_are_counted(prepared: Prepared) -> None:
    (choices,) = prepared.choice_sets
    many = dataclasses.replace(
        choices, texts=tuple(f"label {i}" for i in range(53)), ids=tuple((i,) for i in range(53))
    )
    card = data_card(dataclasses.replace(prepared, choice_sets=(many,)))
    assert (len(card.balance), card.other_labels) == (50, 3)
    few = data_card(prepared)
    assert (len(few.balance), few.other_labels) == (len(choices.texts), 0)


def test_rows_with_choices_of_their_own_have_no_labels_in_common(prepared: Prepared) -> None:
    assert data_card(dataclasses.replace(prepared, choice_sets=(*prepared.choice_sets,) * 2)).balance == ()


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_an_answer_that_is_no_choice_is_counted_in_whatever_part_it_is(prepared: Prepared, name: Part) -> None:
    part = prepared.parts[name]
    answer = np.where(np.arange(len(part)) < 2, -1, part.answer).astype(np.int32)
    parts = {**prepared.parts, name: dataclasses.replace(part, answer=answer)}
    (told,) = [b for b in data_card(dataclasses.replace(prepared, parts=parts)).balance if b.label.startswith("(")]
    assert {n: getattr(told, n) for n in ("train", "validation", "test")} == {
        **dict.fromkeys(("train", "validation", "test"), 0),
        name: 2,
    }


def test_what_a_conversation_reads_between_its_answers_is_no_completion(prepared: Prepared) -> None:
    train = prepared.parts["train"]
    gap = np.array([0, train.prompt_lengths[0] + 1, train.prompt_lengths[0] + 2], dtype=np.int32)
    one = dataclasses.replace(
        train,
        **{
            name: getattr(train, name)[:1]
            for name in ("prompt_lengths", "rows", "choice_set", "answer", "unanswerable")
        },
        offsets=train.offsets[:2],
        gaps=gap,
    )
    (told, *_) = data_card(dataclasses.replace(prepared, parts={**prepared.parts, "train": one})).lengths
    assert told.prompt.most == train.prompt_lengths[0] + 1
    assert told.completion.most == train.lengths[0] - train.prompt_lengths[0] - 1


def test_rows_that_do_not_fit_have_no_length(prepared: Prepared) -> None:
    test = prepared.parts["test"]
    marks = np.where(np.arange(len(test)) < 4, NO_ROOM, 0).astype(np.int32)
    parts = {**prepared.parts, "test": dataclasses.replace(test, unanswerable=marks)}
    told = data_card(dataclasses.replace(prepared, parts=parts)).lengths[2]
    assert (told.part, told.rows) == ("test", len(test) - 4)


def test_labels_are_counted_by_part_and_the_most_frequent_of_train_comes_first(prepared: Prepared) -> None:
    balance = data_card(prepared).balance
    for one in balance:
        counts = [sum(label == one.label for _, label in PARTS[name]) for name in ("train", "validation", "test")]
        assert [one.train, one.validation, one.test] == counts
    assert [one.train for one in balance] == sorted((one.train for one in balance), reverse=True)
    assert sum(one.train for one in balance) == 70


def test_rows_whose_answer_is_no_choice_have_a_line_of_their_own(prepared: Prepared) -> None:
    test = prepared.parts["test"]
    answer = np.where(np.arange(len(test)) < 3, -1, test.answer).astype(np.int32)
    parts = {**prepared.parts, "test": dataclasses.replace(test, answer=answer)}
    told = data_card(dataclasses.replace(prepared, parts=parts)).balance
    assert [(one.label, one.test) for one in told if one.label.startswith("(")] == [("(none of the choices)", 3)]


def test_open_answers_have_no_labels(prepared: Prepared) -> None:
    assert data_card(dataclasses.replace(prepared, choice_sets=())).balance == ()


def test_every_reason_is_listed_with_its_rows_and_parts_and_no_other_one() -> None:
    data = DatasetSummary(
        rows=100,
        dropped=4,
        dropped_by=DroppedRows(train=1, test=2, unsplit=1),
        duplicates=5,
        leaked=6,
        near_duplicates=NearDuplicates(train=7, test=3, dropped=7),
        test_unanswerable=2,
    )
    assert [(one.rows, one.parts) for one in left_out_rows(data)] == [
        (4, "train 1, test 2, before the split 1"),
        (5, ""),
        (6, ""),
        (7, "train"),
        (2, "test"),
    ]
    assert left_out_rows(DatasetSummary(rows=3)) == ()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"dropped": 4}, ("bad rows, left out", 4, "")),
        (
            {"dropped": 6, "dropped_by": DroppedRows(train=1, validation=2, test=3)},
            ("bad rows, left out", 6, "train 1, validation 2, test 3"),
        ),
        ({"skipped": 3}, ("rendered to nothing, left out", 3, "")),
        ({"duplicates": 5}, ("exact duplicates, left out", 5, "")),
        ({"leaked": 6}, ("leaks: in a more sealed file or group too, left out", 6, "")),
        (
            {"near_duplicates": NearDuplicates(train=7, test=3, dropped=7)},
            ("nearly repeat a sealed row, left out", 7, "train"),
        ),
        (
            {"near_duplicates": NearDuplicates(train=7, test=3, dropped=0)},
            ("nearly repeat a sealed row, kept", 7, "train"),
        ),
        ({"conflicts": 8}, ("the same input with another output, kept", 8, "")),
        ({"truncated": 9}, ("shortened to fit maxLength, kept", 9, "")),
        ({"test_unanswerable": 2}, ("no answer can be right, kept and counted as wrong", 2, "test")),
    ],
)
def test_a_reason_is_told_alone_in_its_own_words(data: dict[str, Any], told: tuple[str, int, str]) -> None:
    (one,) = left_out_rows(DatasetSummary(rows=100, **data))
    assert (one.why, one.rows, one.parts) == told
