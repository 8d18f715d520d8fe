"""Prompts of PromptSource, rendered: every construct of the format, and that the sandbox holds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_api.job import Template
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.text.template.catalog import PromptTemplate, resolve_template
from finetune_trainer.text.template.render import Rendered, Renderer, Skipped, Unrendered
from tests.support.promptsource import FILE

ROW = {"text": "My kettle leaks.", "label": 1, "note": "It leaks."}


def template(name: str, source: str = FILE) -> PromptTemplate:
    spec = {"promptsource": {"uri": "s3://bucket/templates.yaml", "name": name}}
    return resolve_template(Template.model_validate(spec), source)


def rendered(name: str, *rows: dict[str, Any], source: str = FILE) -> list[Any]:
    with Renderer.of(template(name, source)) as renderer:
        return list(renderer.render((f"line {i}", row) for i, row in enumerate(rows, start=1)))


def one(jinja: str, *rows: dict[str, Any], choices: str | None = None) -> list[Any]:
    """Render rows by a prompt that is written here."""
    source = json.dumps({"templates": {"a": {"name": "a", "jinja": jinja, "answer_choices": choices}}})
    return rendered("a", *rows, source=source)


def test_answer_choices_are_a_list_in_the_prompt_and_give_the_answer() -> None:
    assert rendered("by_number", ROW) == [
        Rendered(
            "What does the customer want?\n\nMy kettle leaks.\n\nOne of refund, broken, question.",
            "broken",
            (),
            ("refund", "broken", "question"),
        )
    ]


def test_choices_of_a_row_are_rendered_for_it() -> None:
    rows = [{**ROW, "first": "repair", "second": "refund"}, {**ROW, "label": 0, "first": "a|b", "second": "c"}]
    assert rendered("of_the_row", *rows) == [
        Rendered("My kettle leaks.\nIs it repair or refund?", "refund", (), ("repair", "refund")),
        Rendered("My kettle leaks.\nIs it a|b or c?", "a|b", (), ("a|b", "c")),
    ]


def test_bars_in_a_row_part_nothing() -> None:
    assert one("{{ text }} ||| {{ note }}", {"text": "a ||| b", "note": "|||"}, {"text": "a|", "note": "|b"}) == [
        Rendered("a ||| b", "|||"),
        Rendered("a|", "|b"),
    ]
    (result,) = one("{{ a }}{{ answer_choices[0] }}|||{{ answer_choices[1] }}", {"a": "x|||y"}, choices="{{ a }} ||| z")
    assert result == Rendered("x|||yx|||y", "z", (), ("x|||y", "z"))


def test_a_row_that_renders_to_nothing_is_skipped() -> None:
    rows = [ROW, {**ROW, "label": 0}, {**ROW, "note": " "}]
    assert rendered("only_broken", *rows) == [
        Rendered("What is wrong in: My kettle leaks.", "It leaks."),
        Skipped(),
        Skipped(),
    ]


def test_what_is_drawn_is_the_same_for_the_same_row_and_not_for_all() -> None:
    rows = [{"text": f"text {i}", "answers": ["a", "b", "b", "a", "c"]} for i in range(40)]
    results = rendered("drawn", *rows)
    assert results == list(reversed(rendered("drawn", *reversed(rows))))
    assert {result.prompt.split()[0] for result in results} == {"Tell", "Say", "Explain"}
    assert {result.completion for result in results} == {"a", "b"}


def test_most_frequent_keeps_all_that_come_most_often() -> None:
    (result,) = one("{{ a | most_frequent | join(',') }} ||| x", {"a": ["x", "y", "y", "x", "z"]})
    assert result.prompt == "x,y"


def test_zip_and_lists_that_grow_are_known() -> None:
    row = {"table": {"names": ["x", "y"], "values": [1, 2.5]}}
    assert rendered("zipped", row) == [Rendered("x=1; y=2.5", "2")]


def test_a_label_below_0_is_no_choice_from_the_end() -> None:
    (result,) = rendered("by_number", {**ROW, "label": -1})
    assert isinstance(result, Unrendered)
    assert "is asked for -1" in result.why


def test_a_prompt_that_writes_a_choice_from_the_end_means_it() -> None:
    results = rendered("from_the_end", {**ROW, "urgent": True}, {**ROW, "urgent": False})
    assert [result.completion for result in results] == ["yes", "no"]


@pytest.mark.parametrize("label", [3, "3", "no", 1.0, None])
def test_a_label_that_is_no_number_of_a_choice_makes_a_bad_row(label: object) -> None:
    (result,) = rendered("by_number", {**ROW, "label": label})
    assert isinstance(result, Unrendered)


def test_lines_and_blanks_are_those_of_plain_jinja() -> None:
    (result,) = one("{% if a %}\n  {{ a }}\n{% endif %}\nend ||| x", {"a": "1"})
    assert result.prompt == "1\n\nend"


@pytest.mark.parametrize(
    ("jinja", "why"),
    [
        ("{{ a }} {% if a %}{% else %}|||{% endif %}", "it renders ||| 0 times"),
        ("{{ a }} ||| b ||| c", "it renders ||| 2 times"),
        ("{{ none_of_it }} ||| b", "column 'none_of_it' is missing"),
        ("{{ a.append }} ||| b", "str object"),
        ("{{ empty }} ||| b", "a null would be printed"),
        ("{{ [] | choice }} ||| b", "IndexError"),
    ],
)
def test_what_a_prompt_can_not_do_makes_a_bad_row(jinja: str, why: str) -> None:
    (result,) = one(jinja, {"a": "x", "empty": None})
    assert isinstance(result, Unrendered)
    assert why in result.why


@pytest.mark.parametrize("choices", ["{{ a }} ||| {{ a }}", "{{ a }}", "{{ a }} ||| "])
def test_choices_of_a_row_that_are_no_choice_make_it_a_bad_one(choices: str) -> None:
    (result,) = one("q {{ a }} ||| {{ answer_choices[0] }}", {"a": "x"}, choices=choices)
    assert isinstance(result, Unrendered)
    assert "there must be two or more" in result.why


@pytest.mark.parametrize(
    ("jinja", "message"),
    [
        ("{{ a.__class__ }}{{ a.__class__.__mro__ }} ||| b", "does what it may not"),
        ("{% include 'x' %} ||| b", "jinja, line 1: a template can't use other files"),
        ("{{ a ||| b", "jinja, line 1"),
        ("{{ a | shuffle }} ||| b", "No filter named 'shuffle'"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %} ||| b", "CPU time"),
    ],
)
def test_a_prompt_that_can_not_be_meant_or_would_do_harm_ends_the_job(jinja: str, message: str) -> None:
    with pytest.raises(StageError) as caught:
        one(jinja, {"a": "x"})
    assert caught.value.reason is Reason.TEMPLATE_INVALID
    assert message in caught.value.message


def test_what_one_row_does_to_a_list_no_other_sees() -> None:
    jinja = "{% if answer_choices.append(a) %}{% endif %}{{ answer_choices | join(',') }} ||| {{ a }}"
    results = one(jinja, {"a": "x"}, {"a": "y"}, choices="x ||| y")
    assert [result.prompt for result in results] == ["x,y,x", "x,y,y"]
    assert [result.choices for result in results] == [("x", "y"), ("x", "y")]


@pytest.mark.parametrize(
    ("label", "why"),
    [("yes", "is asked for 'yes', and its answers go by whole numbers"), (-1, "its answers are 0 to 1")],
)
@pytest.mark.parametrize("more", ["", "{% if false %}{{ answer_choices[-1] }}{% endif %}"])
def test_a_label_that_numbers_no_answer_is_told_in_the_users_words(label: Any, why: str, more: str) -> None:
    (result,) = one(f"q {more} ||| {{{{ answer_choices[label] }}}}", {"label": label}, choices="no ||| yes")
    if more and label == -1:
        assert isinstance(result, Rendered)  # the prompt counts from the end itself
        assert result.completion == "yes"
        return
    assert isinstance(result, Unrendered)
    assert why in result.why


def test_a_cell_of_csv_that_is_a_whole_number_numbers_an_answer() -> None:
    jinja = "q ||| {{ answer_choices[label] }}"
    results = one(jinja, *({"label": label} for label in ("0", "1", "2", "01", "-1", "1.0")), choices="no ||| yes")
    assert [result.completion for result in results[:2] if isinstance(result, Rendered)] == ["no", "yes"]
    assert [type(result) for result in results[2:]] == [Unrendered] * 4
