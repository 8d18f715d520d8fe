"""Metrics over text by hand: where the definitions bend, and what must never pass for right."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from finetune_trainer.evaluation.metrics.metric import TextMetric
from finetune_trainer.evaluation.metrics.over_ngrams import words
from finetune_trainer.evaluation.metrics.over_text import final_number
from finetune_trainer.evaluation.metrics.registry import METRICS
from tests.unit.trainer.evaluation.metrics.kit import of_texts, text_metric


@pytest.mark.parametrize(
    ("said", "expected", "f1"),
    [
        ("The cat.", "a cat", 1.0),
        ("the black cat sat", "a black dog", 2 * 1 / (3 + 2)),
        ("", "cat", 0.0),
        ("the", "a", 1.0),  # no words on either side, as in SQuAD 2.0
        ("cat cat", "cat", 2 * 1 / 3),
        ("it's", "its", 1.0),
    ],
)
def test_token_f1_is_that_of_squad(said: str, expected: str, f1: float) -> None:
    assert of_texts("TokenF1", [said], [expected]) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She has 3 + 4 = 7 apples.", 7),
        ("so it is $1,234.50.", Fraction("1234.5")),
        ("1.234.567 Euro", 1234567),
        ("es sind 3,14", Fraction("3.14")),
        ("1.234,5", Fraction("1234.5")),
        ("9'000", 9000),
        ("10\u202f000 m", 10000),
        ("\u22125 degrees", -5),
        ("it is -5", -5),
        ("from 5-3", 3),
        ("3/4 of it", Fraction(3, 4)),
        (".5", Fraction(1, 2)),
        ("1.5e3", 1500),
        ("6 * 3 = 18\n#### 18", 18),
        ("#### 18 (of 20)", 18),
        ("H2O", None),
        ("none", None),
        ("1,2,3", None),
        ("version 1.2.3", None),
        ("1/0", None),
        ("#### none, not 5", 5),
        ("5 #### none", None),
        ("5'10", 10),
        ("9" * 5000, None),
        ("1e999999999", None),
    ],
)
def test_the_final_number_of_a_text(text: str, number: Fraction | int | None) -> None:
    assert final_number(text) == number


@pytest.mark.parametrize(("said", "expected", "right"), [
    ("The answer is 72.", "... #### 72", 1.0),
    ("72.0", "72", 1.0),
    ("0.75", "3/4", 1.0),
    ("1/4", "3/4", 0.0),  # both end in 4
    ("2,14", "3,14", 0.0),  # both end in 14
    ("73", "72", 0.0),
    ("none", "none", 0.0),  # nothing to compare is nothing right
])  # fmt: skip
def test_numbers_match_as_numbers(said: str, expected: str, right: float) -> None:
    assert of_texts("NumericMatch", [said], [expected]) == right


EXPECTED = '{"name": "Ada", "born": 1815, "tags": ["x", "y"], "place": {"city": "London"}}'


@pytest.mark.parametrize(
    ("said", "value"),
    [
        (EXPECTED, 1.0),
        ('{"tags":["y","x"],"place":{"city":"London"},"born":1815.0,"name":" Ada "}', 1.0),
        ('{"name": "Ada"}', 1 / 5),
        ('{"name": "Bob", "born": 1815, "tags": ["x", "y"], "place": {"city": "London"}}', 4 / 6),
        (EXPECTED[:-1] + ', "more": 1}', 5 / 6),
        (EXPECTED[:-1] + ', "tags": ["x", "y", "x"]}', 5 / 6),
        ("[" + EXPECTED + "]", 0.0),
        ("```json\n" + EXPECTED + "\n```", 0.0),
        ('{"born": true}', 0.0),
        ("", 0.0),
        ("5", 0.0),
        ("[" * 100000, 0.0),
        ('{"born": NaN}', 0.0),
    ],
)
def test_json_fields_are_right_missing_or_too_many(said: str, value: float) -> None:
    assert of_texts("JSONFieldAccuracy", [said], [EXPECTED]) == pytest.approx(value)


def test_an_empty_list_is_a_field_and_one_is_not_true() -> None:
    assert of_texts("JSONFieldAccuracy", ['{"a": []}'], ['{"a": []}']) == 1.0
    assert of_texts("JSONFieldAccuracy", ['{"a": true}'], ['{"a": 1}']) == 0.0
    assert of_texts("JSONFieldAccuracy", ['{"a": {"b.c": 1}}'], ['{"a": {"b": {"c": 1}}}']) == 0.0


@pytest.mark.parametrize(
    ("said", "valid"),
    [
        ('{"x": 1}', 1.0),
        ("[1]", 0.0),
        ("1", 0.0),
        ('{"x": 1} and more', 0.0),
        ('{"x": Infinity}', 0.0),
        ("{x: 1}", 0.0),
    ],
)
def test_valid_json_is_the_expected_kind_of_document(said: str, valid: float) -> None:
    assert of_texts("JSONValidity", [said], ['{"y": 2}']) == valid


def test_words_of_all_scripts_count() -> None:
    assert words("Über-Größe, n\u0303") == ["über", "größe", "ñ"]
    assert words("हिन्दी में") == ["हिन्दी", "में"]
    assert words("我爱你abc") == ["我", "爱", "你", "abc"]
    assert of_texts("ROUGEL", ["我爱你"], ["我不爱你"]) == pytest.approx(2 * 3 / 7)


def test_a_metric_says_which_expected_answers_it_can_not_score() -> None:
    assert text_metric("NumericMatch").scorable("about seven") == "has no final number"
    assert text_metric("NumericMatch").scorable("7") == ""
    assert text_metric("JSONValidity").scorable("7") == "is no JSON object or array"
    assert text_metric("JSONFieldAccuracy").scorable("[]") == ""
    assert text_metric("ROUGE1").scorable("") == ""


def test_no_metric_gives_anything_for_a_row_that_no_answer_can_be_right_for() -> None:
    for metric in METRICS.values():
        if isinstance(metric, TextMetric):
            for expected in ("a", "the", "...", "word", "42", '{"a": 1}'):
                assert metric.of_all(np.array([metric.without_answer(expected)])) == 0, metric.name


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("0,125", "1/8"),
        ("-0,125", "-1/8"),
        ("1,234", "1234"),
        ("50 000", "50000"),
        ("#### 1 000", "1000"),
        ("1 234,5", "2469/2"),
        ("1,23,456", "123456"),
        ("12,34,56,789", "123456789"),
        ("1 1/2", "3/2"),
        ("-1 1/2", "-3/2"),
        ("1 000/4", "250"),
        ("3 10/2", "5"),
        ("12 apples and 500 pears", "500"),
        ("in 2020 300", "300"),
    ],
)
def test_a_final_number_is_read_as_people_write_it(said: str, meant: str) -> None:
    assert final_number(said) == Fraction(meant)


@pytest.mark.parametrize("said", ["1,2,3", "1.2.3", "1,23,45", "x 1 0/0"])
def test_a_list_is_no_number(said: str) -> None:
    assert final_number(said) is None
