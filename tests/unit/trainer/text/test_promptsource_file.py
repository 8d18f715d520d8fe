"""What is read of a file of PromptSource, and what is refused."""

from __future__ import annotations

import pytest

from finetune_trainer.text.template.promptsource import read_prompt
from tests.support.promptsource import FILE


def refused(text: str, name: str = "by_number") -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the message is what is looked at
        read_prompt(text, name)
    return str(caught.value)


def test_a_prompt_is_found_by_its_name_with_what_its_author_says_of_it() -> None:
    prompt = read_prompt(FILE, "by_number")
    assert prompt.fixed_choices == ("refund", "broken", "question")
    assert (prompt.metric, prompt.choices_in_prompt, prompt.original_task) == ("ExactMatch", True, True)
    assert prompt.jinja.endswith("|||\n{{ answer_choices[label] }}")


def test_a_prompt_is_found_by_its_id() -> None:
    assert read_prompt(FILE, "0b1e5c1a-0000-4000-8000-000000000008").jinja.startswith("Once more")


def test_choices_that_depend_on_the_row_are_not_fixed() -> None:
    prompt = read_prompt(FILE, "of_the_row")
    assert (prompt.answer_choices, prompt.fixed_choices) == ("{{ first }} ||| {{ second }}", None)


@pytest.mark.parametrize(("name", "metric"), [("only_broken", "ROUGEL"), ("drawn", None), ("zipped", None)])
def test_the_first_metric_that_is_known_here_is_taken(name: str, metric: str | None) -> None:
    assert read_prompt(FILE, name).metric == metric


def test_metadata_may_be_missing() -> None:
    prompt = read_prompt(FILE, "0b1e5c1a-0000-4000-8000-000000000007")
    assert (prompt.metric, prompt.choices_in_prompt, prompt.original_task) == (None, None, None)


def test_an_unknown_name_is_told_with_near_ones() -> None:
    assert refused(FILE, "by_numbers") == ("has no prompt called 'by_numbers'; there are 8, such as 'by_number'")


def test_a_name_that_two_prompts_have_is_told_with_their_ids() -> None:
    message = refused(FILE, "twice")
    assert message.startswith(
        "has 2 prompts called 'twice'; give the id of one: 0b1e5c1a-0000-4000-8000-000000000007, "
    )


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system [true]",
        "!!python/name:os.system x",
        "!!python/object/new:type {}",
        "!Other {a: 1}",
    ],
)
def test_no_other_tag_makes_an_object(tag: str) -> None:
    message = refused(f"templates:\n  a: {tag}\n")
    assert message.startswith("is no file of PromptSource: could not determine a constructor for the tag")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no file of PromptSource: it has no mapping of templates by their ids"),
        ("- a", "is no file of PromptSource: it has no mapping"),
        ("templates: [a]", "is no file of PromptSource: it has no mapping"),
        ("templates: {a: b}", "is no file of PromptSource: it has no mapping"),
        ("templates: {a: !Template b}", "is no file of PromptSource: !Template is no mapping"),
        ("templates: {", "is no file of PromptSource: while parsing"),
        ("templates: " + "[" * 5000, "is no file of PromptSource"),
        ("templates: {by_number: {name: x}}", "has no jinja text in prompt 'x'"),
        ("templates: {by_number: {name: x, jinja: [a]}}", "has no jinja text in prompt 'x'"),
        ("templates: {by_number: {name: x, jinja: 'a'}}", "has no ||| in the jinja text of prompt 'x'"),
        ("templates: {by_number: {name: x, jinja: 'a ||| b', answer_choices: [a]}}", "has answer_choices in"),
        ("templates: {by_number: {name: x, jinja: 'a ||| b', answer_choices: a}}", "there must be two or more"),
        ("templates: {by_number: {name: x, jinja: 'a ||| b', answer_choices: 'a ||| a'}}", "there must be two or more"),
        ("templates: {by_number: {name: x, jinja: 'a ||| b', answer_choices: 'a ||| '}}", "there must be two or more"),
    ],
)  # fmt: skip
def test_what_can_not_be_used_is_told(text: str, message: str) -> None:
    assert message in refused(text)
