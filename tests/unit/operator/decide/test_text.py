"""Foreign text and times on their way into status."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from finetune_api.job import FineTuneJobSpec
from finetune_operator.decide.text import clean, explain, last_line, parse_time, rfc3339, sanitise
from tests.support import builders as b


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain words", "plain words"),
        ("  two\n lines\r\n\tand a tab ", "two lines and a tab"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]8;;http://example.com\x07link\x1b]8;;\x07", "link"),
        ("\x1b]0;title with no end", ""),
        ("nul\x00bell\x07", "nul bell"),
        ("right-to-left \u202eoverride", "right-to-left override"),
        ("line\u2028separator and\u00a0space", "line separator and space"),
        ("Grüße 日本", "Grüße 日本"),
        ("lone \ud800 surrogate", "lone surrogate"),
        ("", ""),
    ],
)
def test_text_comes_out_on_one_printable_line(text: str, expected: str) -> None:
    assert sanitise(text) == expected


def test_a_text_that_is_cut_says_so() -> None:
    assert sanitise("a" * 11, limit=10) == "a" * 9 + "…"
    assert sanitise("a" * 10, limit=10) == "a" * 10


@given(st.text(max_size=400), st.integers(min_value=1, max_value=50))
def test_whatever_comes_in_is_printable_bounded_and_stable(text: str, limit: int) -> None:
    once = sanitise(text, limit)
    assert len(once) <= limit
    assert once == "" or once.isprintable()
    assert sanitise(once, limit) == once
    once.encode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("one\ntwo\n\n", "two"), ("one", "one"), ("", ""), ("\n \n\x1b[0m\n", ""), ("a\r\nb\r\n", "b")],
)
def test_the_last_line_that_says_something(text: str, expected: str) -> None:
    assert last_line(text) == expected


def test_every_text_inside_a_value_is_cleaned_and_the_rest_is_kept() -> None:
    assert clean({"a": ["x\ny", 1, None, {"b": "\x1b[31mz"}]}) == {"a": ["x y", 1, None, {"b": "z"}]}


def test_a_text_that_programs_are_given_stays_as_it_is() -> None:
    assert clean({"a": {"stop": ["\n", "\nText:"], "b": "\n"}}, verbatim=("stop",)) == {
        "a": {"stop": ["\n", "\nText:"], "b": ""}
    }


def test_an_error_names_every_wrong_field_by_its_path_on_the_wire() -> None:
    spec = b.job_spec(training={"batchSize": 0}, evaluation={"metric": "Best"})
    with pytest.raises(ValidationError) as caught:
        FineTuneJobSpec.model_validate(spec)
    message = explain(caught.value)
    assert "training.batchSize: " in message
    assert "evaluation.metric: " in message


def test_a_rule_speaks_for_itself_without_a_path_before_it() -> None:
    with pytest.raises(ValidationError) as caught:
        FineTuneJobSpec.model_validate(b.job_spec(output={"export": "Both"}, training={"method": "Full"}))
    assert explain(caught.value).startswith("output.export")


def test_many_errors_are_counted_and_not_all_told() -> None:
    wrong = ("epochs", "batchSize", "maxLength", "seed", "precision", "method")
    spec = b.job_spec(training={field: {} for field in wrong})
    with pytest.raises(ValidationError) as caught:
        FineTuneJobSpec.model_validate(spec)
    assert explain(caught.value).endswith("; and 1 more")


def test_times_are_printed_in_utc_with_whole_seconds() -> None:
    moment = datetime(2026, 3, 1, 10, 0, 1, 999999, tzinfo=timezone(timedelta(hours=2)))
    assert rfc3339(moment) == "2026-03-01T08:00:01Z"


@pytest.mark.parametrize("text", [None, "", "yesterday", "2026-13-01T00:00:00Z", "12"])
def test_what_is_no_time_counts_as_absent(text: str | None) -> None:
    assert parse_time(text) is None


def test_a_time_survives_printing_and_parsing() -> None:
    assert parse_time(rfc3339(b.T0)) == b.T0
    assert parse_time("2026-03-01T08:00:00") == datetime(2026, 3, 1, 8, tzinfo=UTC)
