"""How an answer column is read: by the whole of it, or not at all."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.job import Template
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.text.template import labels as module
from finetune_trainer.text.template.catalog import resolve_template
from finetune_trainer.text.template.fields import project
from finetune_trainer.text.template.labels import as_text, fold, whole_number
from finetune_trainer.text.template.survey import AnswerSurvey

ROWS = list[dict[str, Any]]


def read(template: dict[str, Any], rows: ROWS) -> list[tuple[str, bool]]:
    resolved = resolve_template(Template.model_validate(template))
    survey = AnswerSurvey(resolved)
    for number, row in enumerate(rows, start=1):
        survey.add(f"line {number}", row)
    answers, _ = survey.judge()
    results = [project(resolved, row, answers) for row in rows]
    return [(result.answer, result.folded) for result in results]


def remark(template: dict[str, Any], rows: ROWS) -> str | None:
    survey = AnswerSurvey(resolve_template(Template.model_validate(template)))
    for row in rows:
        survey.add("line", row)
    said = survey.judge()[1]
    return None if said is None else said.text


def labels(*values: Any) -> ROWS:
    return [{"text": "t", "label": value} for value in values]


def given(*choices: str) -> dict[str, Any]:
    return {"name": "topic", "choices": list(choices)}


def refused(template: dict[str, Any], rows: ROWS) -> str:
    with pytest.raises(StageError) as caught:
        read(template, rows)
    assert caught.value.reason is Reason.DATASET_INVALID
    return caught.value.message


def texts(template: dict[str, Any], rows: ROWS) -> list[str]:
    return [text for text, _ in read(template, rows)]


@pytest.mark.parametrize("values", [(0, 2, 1), ("0", "2", "1"), (0.0, 2.0, 1.0), ("0.0", " 2.0", "1"), (0, "2", 1.0)])
def test_whole_numbers_from_0_are_numbers_of_the_given_choices(values: tuple[Any, ...]) -> None:
    assert texts(given("a", "b", "c"), labels(*values)) == ["a", "c", "b"]


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ((1, 2, 3), "'3' (line 3) is not between 0 and 2; no 0 occurs, so they seem to be counted from 1"),
        ((1, 2), "no 0 occurs, so it can't be told whether they are counted from 0 or 1"),
        ((0, 1, 3), "'3' (line 3) is not between 0 and 2;"),
        ((-1, 0, 1), "'-1' (line 1) is not between 0 and 2;"),
        ((0, 1, "none"), "'none' (line 3) is no whole number"),
        ((0, 1, 1.5), "'1.5' (line 3) is no whole number"),
        ((0, 1, True), "'true' (line 3) is no whole number"),
        ((0, 1, "01"), "'01' (line 3) is no whole number"),
    ],
)
def test_a_column_that_is_not_all_numbers_from_0_is_refused_with_its_first_misfit(
    values: tuple[Any, ...], why: str
) -> None:
    message = refused(given("a", "b", "c"), labels(*values))
    assert message.startswith(f"line 1: the answer '{values[0]}' in column 'label' is none of dataset.template.choices")
    assert why in message


@pytest.mark.parametrize("misfit", ["c", 1, "0", True, 0.5])
def test_a_value_among_choices_that_is_none_stays_what_it_is(misfit: object) -> None:
    rows = labels("a", misfit, "B")
    assert texts(given("a", "b"), rows) == ["a", as_text(misfit), "b"]
    assert remark(given("a", "b"), rows) == "column 'label': 'b' is also spelt as text 'B'"


def test_a_column_without_one_choice_is_refused_in_words() -> None:
    assert refused(given("a", "b"), labels("cats", "dogs")) == (
        "no value of column 'label' is one of dataset.template.choices (a, b); the first is 'cats' (line 1); list the "
        "column's own labels, or map the column that holds the choices"
    )
    assert "(a, b, c, d, e, ...)" in refused(given(*"abcdef"), labels("x"))


def test_numbers_that_could_be_meant_as_choices_and_as_their_numbers_are_refused() -> None:
    assert refused(given("1", "2", "3"), labels(1, 2, 0)).startswith("line 3: the answer '0' in column 'label'")


def test_a_number_beyond_choices_that_are_numbers_is_a_matter_of_its_row() -> None:
    assert texts(given("1", "2", "3"), labels(3, 1, 4, 0)) == ["3", "1", "4", "0"]


def test_a_column_without_a_value_is_no_misfit() -> None:
    assert texts(given("a", "b"), []) == []


def test_numbers_that_are_choices_themselves_mean_their_text() -> None:
    assert texts(given("1", "0", "2"), labels(0, 1, 2.0)) == ["0", "1", "2"]
    assert "the choice '1' is a number itself" in refused(given("1", "2", "3"), labels(0, 1, 2))


def test_numbers_never_mean_the_opposite_of_true_and_false() -> None:
    assert "0 would be true and 1 false" in refused(given("true", "false"), labels(0, 1))
    assert texts(given("false", "true"), labels(0, 1)) == ["false", "true"]
    assert texts(given("true", "false"), labels(True, "False")) == ["true", "false"]


def test_given_choices_are_found_whatever_case_space_or_unicode_form_and_it_is_told() -> None:
    rows = labels("Caf\u00e9", " caf\u00e9", "Cafe\u0301", "CAF\u00c9\u00a0", "Caf\u00e9\u200b")
    read_as = read(given("Caf\u00e9", "tea"), rows)
    assert [text for text, _ in read_as] == ["Caf\u00e9"] * 5
    assert [folded for _, folded in read_as] == [False, True, True, True, True]


def test_given_choices_that_differ_in_case_alone_must_be_met_exactly() -> None:
    assert texts(given("US", "us"), labels("us", "US")) == ["us", "US"]
    assert read(given("US", "us"), labels("us", "Us")) == [("us", False), ("Us", False)]


def test_found_labels_of_mixed_types_are_one_label_each() -> None:
    read_as = read({"name": "topic"}, labels(1, 1, 1, 1.0, "1", "1.0", 0, "0", 0.0, "0.0"))
    assert [text for text, _ in read_as] == ["1"] * 6 + ["0"] * 4
    assert sum(folded for _, folded in read_as) == 6


def test_found_booleans_are_0_and_1_only_beside_them() -> None:
    assert texts({"name": "topic"}, labels(1, 0, 1, 0, True, False, "True")) == ["1", "0", "1", "0", "1", "0", "1"]
    assert set(texts({"name": "topic"}, labels(True, "True", "true", False))) == {"true", "false"}
    assert set(texts({"name": "topic"}, labels(1, 2, True))) == {"1", "2", "true"}
    assert "stands beside numbers other than 0 and 1" in str(remark({"name": "topic"}, labels(1, 2, True)))


def test_the_most_frequent_spelling_becomes_the_label_and_the_others_are_named() -> None:
    rows = labels("Sports", "sports", "sports", "SPORTS ", "news")
    assert texts({"name": "topic"}, rows) == ["sports"] * 4 + ["news"]
    assert remark({"name": "topic"}, rows) == (
        "column 'label': 'sports' is also spelt as text 'Sports', text 'SPORTS '"
    )


def test_spellings_that_differ_in_outer_white_space_are_named_too() -> None:
    rows = labels("news", " news", "news\u00a0", "sport ", "sport ")
    assert texts({"name": "topic"}, rows) == ["news"] * 3 + ["sport"] * 2
    said = remark({"name": "topic"}, rows)
    assert said is not None
    assert "'news' is also spelt as text ' news', text 'news\\xa0'" in said
    assert "'sport' is also spelt as text 'sport '" in said
    assert remark(given("news", "sport"), rows) == said


@pytest.mark.parametrize(
    ("rare", "frequent", "times", "told"),
    [
        ("billng", "billing", 1, True),
        ("Card_arival", "card_arrival", 2, True),
        ("arts", "billing", 1, False),
        ("card 1", "card 2", 1, False),
        ("bug", "bag", 1, False),
        ("billng", "billing", 3, False),
    ],
)
def test_a_rare_label_that_looks_like_a_frequent_one_is_told(rare: str, frequent: str, times: int, told: bool) -> None:
    rows = labels(*[frequent] * 25, *["other"] * 25, *[rare] * times)
    said = remark({"name": "topic"}, rows) or ""
    assert (f"{rare!r} in {times} of the rows may be {frequent!r} misspelt" in said) is told
    assert ("set dataset.template.choices" in said) is told
    assert texts({"name": "topic"}, rows)[-1] == rare


def test_labels_that_are_all_whole_numbers_are_told() -> None:
    assert "dataset.template.choices gives names" in str(remark({"name": "topic"}, labels(0, 1, "2", 1)))
    assert remark({"name": "topic"}, labels("0", "1", "none")) is None
    assert remark(given("a", "b"), labels(0, 1)) is not None


@pytest.mark.parametrize(
    ("one", "other"), [("01", "1"), ("1.10", "1.1"), ("Mass", "Ma\u00df"), ("x2", "x\u00b2"), ("a-b", "a b")]
)
def test_labels_that_differ_in_more_stay_apart(one: str, other: str) -> None:
    assert texts({"name": "topic"}, labels(one, other)) == [one, other]


def test_a_column_of_more_values_or_text_than_labels_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SPELLINGS", 3)
    assert texts({"name": "topic"}, labels("a", "b", "c", "a")) == ["a", "b", "c", "a"]
    assert "column 'label' has more than 3 different values" in refused({"name": "topic"}, labels("a", "b", "c", "d"))
    monkeypatch.setattr(module, "MAX_SPELLED_CHARS", 10)
    assert texts({"name": "topic"}, labels("a" * 5, "b" * 5)) == ["a" * 5, "b" * 5]
    assert "different values, too many to be labels" in refused({"name": "topic"}, labels("a" * 5, "b" * 6))


def own(*rows: tuple[Any, Any]) -> ROWS:
    return [{"question": "q", "choices": choices, "answer": answer} for choices, answer in rows]


MC = {"name": "multiple-choice"}
AB = ["red", "green"]
LABELLED = {"text": ["red", "green"], "label": ["1", "2"]}
LABELLED_FROM_0 = {"text": ["red", "green"], "label": ["1", "0"]}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (own((AB, "green"), (AB, " RED")), ["green", "red"]),
        (own((AB, "B"), (AB, "a")), ["green", "red"]),
        (own((AB, 1), (AB, "0"), (AB, 1.0)), ["green", "red", "green"]),
        (own((AB, "B"), (AB, "red")), ["green", "red"]),
        (own((LABELLED, "1"), (LABELLED, 2)), ["red", "green"]),
        # The text of one row by accident: the other rows say that it is a number ...
        (own((["3", "0", "5"], 0), (["7", "8", "9"], 2)), ["3", "9"]),
        # ... or a letter.
        (own((["B", "A"], "A"), (AB, "B")), ["B", "green"]),
        (own((["3", "0"], 0), (["1", "2"], 2)), ["0", "2"]),
    ],
)
def test_answers_to_own_choices_are_read_in_the_way_that_fits_every_row(rows: ROWS, expected: list[str]) -> None:
    assert texts(MC, rows) == expected


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (own((AB, 1), (AB, 2)), "line 1: column 'answer': the answer '1' is not the text of a choice"),
        (
            own((AB, 1), (AB, 2)),
            "'2' (line 2) is no number of its choices; no 0 occurs, so they seem",
        ),
        (own((AB, 1), (AB, 1)), "no 0 occurs, so it can't be told whether they are counted from 0 or 1"),
        (own((AB, 0), (AB, 2)), "'2' (line 2) is no number of its choices"),
        (
            own((AB, "red"), (["B", "x"], "B"), (AB, "B")),
            "column 'answer': the answer 'B' names 'B' by its text",
        ),
    ],
)
def test_answers_that_can_be_meant_in_two_ways_are_refused(rows: ROWS, message: str) -> None:
    assert message in refused(MC, rows)


NUMBERS = (["0", "1", "2"], 0), (["2", "0", "1"], 1), (["2", "1", "0"], 2)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (own(*NUMBERS), "line 2: column 'answer': the answer '1' names '1' by its text, and '0' as a number from 0"),
        (own(([3, 0], 0), ([1.0, "0"], "1")), "line 1: column 'answer': the answer '0' names '0' by its text, and '3'"),
        (own((LABELLED_FROM_0, 0)), "the answer '0' names 'green' by its label, and 'red' as a number from 0"),
    ],
)
def test_numbers_that_fit_every_row_as_words_and_as_numbers_are_refused(rows: ROWS, message: str) -> None:
    assert message in refused(MC, rows)


def test_the_ways_out_of_numbers_that_are_read_in_two_ways_are_read_in_one() -> None:
    letters = own(*((choices, "ABC"[choices.index(str(answer))]) for choices, answer in NUMBERS))
    assert texts(MC, letters) == ["0", "1", "2"]
    assert "write the choice's letter in every row, A for the first" in refused(MC, own(*NUMBERS))
    labelled = [({"text": choices, "label": ["A", "B", "C"]}, answer) for choices, answer in NUMBERS]
    assert "write labels that are no numbers" not in refused(MC, own(*NUMBERS))
    assert texts(MC, own(*((choices, "B") for choices, _ in labelled))) == ["1", "0", "1"]
    assert texts(MC, own((LABELLED_FROM_0, "green"))) == ["green"]


def test_numbers_that_mean_the_same_choice_as_text_and_as_number_are_read() -> None:
    assert texts(MC, own((["0", "1"], 0), (["0", "1", "x"], 1))) == ["0", "1"]


def test_one_row_that_fits_only_as_text_tells_that_numbers_are_texts() -> None:
    assert texts(MC, own(*NUMBERS, (["7", "8"], 8))) == ["0", "1", "2", "8"]


def test_an_answer_that_is_none_of_its_choices_stays_what_it_is() -> None:
    assert texts(MC, own((AB, "blue"), (AB, "red"), (AB, 1))) == ["blue", "red", "1"]


def test_choices_with_labels_of_their_own_are_not_lettered() -> None:
    assert texts(MC, own((LABELLED, "A"), (LABELLED, "1"), (LABELLED, "green"))) == ["A", "red", "green"]


def test_rows_without_answer_or_choices_have_no_say() -> None:
    rows = [*labels(0, 1), {"text": "t"}, {"text": "t", "label": None}, {"text": "t", "label": ["x"]}]
    survey = AnswerSurvey(resolve_template(Template.model_validate(given("a", "b"))))
    for row in rows:
        survey.add("line", row)
    assert survey.judge()[0](1, (), ()).text == "b"


def test_what_is_a_whole_number() -> None:
    assert [whole_number(t) for t in ("0", "-1", "2.0", "3.00", "01", "1.5", "", "1e3", "\u0661")] == [
        0, -1, 2, 3, None, None, None, None, None,
    ]  # fmt: skip
    assert fold("-0") == fold("0.0") == "0"


YES_NO = {"name": "paraphrase"}


def pairs(*values: Any) -> ROWS:
    return [{"sentence1": "a", "sentence2": "b", "label": value} for value in values]


@pytest.mark.parametrize(
    "values",
    [(True, False), ("True", "false"), (1, 0), ("1", "0"), ("yes", "no"), ("Yes", " NO")],
)
def test_yes_and_no_are_read_from_booleans_numbers_and_words(values: tuple[Any, ...]) -> None:
    assert texts(YES_NO, pairs(*values)) == ["yes", "no"]


def test_booleans_mean_yes_and_no_in_whatever_order_these_stand() -> None:
    assert texts({**YES_NO, "choices": ["Yes", "No"]}, pairs(True, False)) == ["Yes", "No"]


def test_that_booleans_were_read_as_yes_and_no_is_told() -> None:
    assert remark(YES_NO, pairs(True, False)) == "column 'label' holds true and false, which are read as yes and no"


@pytest.mark.parametrize("values", [(True, 0), ("true", "1", "false"), (True, "maybe")])
def test_booleans_beside_anything_else_are_not_guessed(values: tuple[Any, ...]) -> None:
    message = refused(YES_NO, pairs(*values))
    assert message.startswith(
        "line 1: the answer 'true' in column 'label' is none of the choices of template paraphrase"
    )


def test_labels_that_are_none_of_the_templates_choices_are_sent_to_choices() -> None:
    assert refused(YES_NO, pairs("same", "different")) == (
        "no value of column 'label' is one of the choices of template paraphrase (no, yes); the first is 'same' "
        "(line 1); list the column's own labels in dataset.template.choices, or map the column that holds the choices"
    )
