"""A plain word is to a local run what it is to kubectl, and what is written is read back by both."""

from __future__ import annotations

import math
from typing import Any, Final

import pytest
import yaml

from finetune_api.kube_yaml import RepeatedKeyError, dump_yaml, load_yaml

TOLD_BY_GO: Final[dict[str, Any]] = {
    **{"3e-3": 0.003, "2e-4": 0.0002, "1e5": 100000, "1E5": 100000, "1e+5": 100000, "12e03": 12000, "1.5e3_0": 1.5e30},
    **{".5": 0.5, "-.5": -0.5, "+.5": 0.5, "1.": 1, "1.e3": 1000, "1.5": 1.5, "1_0.5": 10.5},
    **{"+1": 1, "1_000": 1000, "12_": 12, "1__0": 10, "08": 8, "017": 15, "0o17": 15, "0x1f": 31, "0X1F": 31},
    **{"-0x1f": -31, "0x1_f": 31, "0b11": 3, "-0b11": -3, "0b_1": 1},
    **{"yes": True, "Yes": True, "y": True, "Y": True, "on": True, "TRUE": True, "n": False, "N": False, "OFF": False},
    **{"~": None, "null": None, "Null": None},
    **{word: word for word in ("NaN", "_1", "1e", "e5", "0x", "0o8", "0b2", "1e400", "oFF", "infinity", "=", "<<")},
    **{word: word for word in ("2026-01-01", "1:30")},
}
"""What YAMLToJSON of sigs.k8s.io/yaml 1.6.0 makes of a plain word."""


@pytest.mark.parametrize("word", TOLD_BY_GO)
def test_a_plain_word_is_what_it_is_to_kubectl(word: str) -> None:
    ((value),) = load_yaml(f"a: {word}")
    assert value == {"a": TOLD_BY_GO[word]}
    assert type(value["a"]) is type(TOLD_BY_GO[word])


@pytest.mark.parametrize("word", [".inf", "+.Inf", "-.INF", ".nan"])
def test_a_number_that_json_lacks_is_none_of_text(word: str) -> None:
    ((value),) = load_yaml(f"a: {word}")
    assert not math.isfinite(value["a"])


@pytest.mark.parametrize("word", [*TOLD_BY_GO, ".inf", ".nan", "", "a: b", "two\nlines", "é"])
def test_text_that_was_written_is_text_to_every_reader(word: str) -> None:
    written = dump_yaml({word: [word]})
    assert load_yaml(written) == [{word: [word]}]
    assert yaml.safe_load(written) == {word: [word]}


def test_numbers_are_written_without_quotes_and_tags() -> None:
    written = dump_yaml({"one": 1, "half": 0.5, "small": 1e-5, "large": 1e20, "yes_": True, "none": None})
    assert written == "one: 1\nhalf: 0.5\nsmall: 1.0e-05\nlarge: 1.0e+20\nyes_: true\nnone: null\n"


def test_quotes_and_a_tag_make_text() -> None:
    assert load_yaml("a: '3e-3'\nb: !!str 3e-3") == [{"a": "3e-3", "b": "3e-3"}]


def test_a_key_that_stands_again_is_named_with_its_lines_wherever_it_stands() -> None:
    with pytest.raises(RepeatedKeyError) as caught:
        load_yaml("a:\n  b: 1\n  c: [{d: 1, d: 2}]\n  b: 2\n'e': 1\ne: 2\ne: 3\n")
    assert str(caught.value) == (
        "a.c[0].d stands twice, on line 3; keep one; a.b stands twice, on lines 2 and 4; keep one; "
        "e stands 3 times, on lines 5, 6 and 7; keep one"
    )


def test_an_anchor_that_is_merged_and_used_again_is_no_repetition() -> None:
    text = "a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}\ne: *x\n"
    assert load_yaml(text) == [{"a": {"b": 1, "c": 2}, "d": {"b": 3, "c": 2}, "e": {"b": 1, "c": 2}}]
