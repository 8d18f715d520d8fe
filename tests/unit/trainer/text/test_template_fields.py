"""From a row's values to what a template needs."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.job import Template
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.text.template.catalog import resolve_template
from finetune_trainer.text.template.fields import Projected, project, row_choices
from finetune_trainer.text.template.survey import AnswerSurvey


def projected(template: dict[str, Any], values: dict[str, Any]) -> Projected:
    resolved = resolve_template(Template.model_validate(template))
    survey = AnswerSurvey(resolved)
    survey.add("line 1", values)
    return project(resolved, values, survey.judge()[0])


FIELDS = {
    "sentiment": ["text", "label"],
    "topic": ["text", "label"],
    "intent": ["text", "label"],
    "nli": ["premise", "hypothesis", "label"],
    "qa": ["context", "question", "answer"],
    "summarization": ["text", "summary"],
    "instruction": ["instruction", "input", "output"],
    "multiple-choice": ["question", "choices", "answer"],
    "raw": ["prompt", "completion"],
    "messages": ["messages"],
}


@pytest.mark.parametrize("name", FIELDS)
def test_the_fields_of_every_template_are_as_promised(name: str) -> None:
    template = resolve_template(Template.model_validate({"name": name}))
    assert [f.name for f in template.fields] == FIELDS[name]
    assert [f.name for f in template.fields if f.optional] == (["input"] if name == "instruction" else [])
    assert all(f.description for f in template.fields)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            {"name": "intent", "columns": {"utterance": "text"}},
            "maps 'utterance', which is no field of template intent; its fields are text, label",
        ),
        ({"name": "intent", "choices": ["a", " a"]}, "choices has 'a' twice"),
        ({"name": "intent", "choices": ["cafe\u0301", "caf\u00e9"]}, "choices has 'caf\u00e9' twice"),
        ({"name": "intent", "choices": ["a", " "]}, "an empty choice"),
    ],
)
def test_a_template_that_can_not_be_meant_is_refused(template: dict[str, Any], message: str) -> None:
    with pytest.raises(StageError) as caught:
        resolve_template(Template.model_validate(template))
    assert caught.value.reason is Reason.TEMPLATE_INVALID
    assert message in caught.value.message


def test_columns_are_mapped_to_fields_and_texts_are_stripped() -> None:
    row = {"utterance": " where is it? ", "label": "card arrival\n", "other": 1}
    assert projected({"name": "intent", "columns": {"text": "utterance"}}, row) == Projected(
        {"text": "where is it?"}, "card arrival", folded=True
    )


@pytest.mark.parametrize(
    ("value", "text"), [(3, "3"), (0, "0"), (1.5, "1.5"), (True, "true"), (False, "false"), ("x", "x")]
)
def test_plain_json_values_become_text(value: object, text: str) -> None:
    assert projected({"name": "intent"}, {"text": "t", "label": value}).answer == text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text": "a"}, "column 'label' is missing"),
        ({"text": "a", "label": None}, "column 'label' is empty"),
        ({"text": " \n", "label": "x"}, "column 'text' is empty"),
        ({"text": ["a"], "label": "x"}, "column 'text' holds a list, not a text"),
        ({"text": {"a": 1}, "label": "x"}, "column 'text' holds a JSON object, not a text"),
        ({"text": "a", "label": ["x"]}, "column 'label' holds a list, not a text"),
        ({"text": [], "label": "x"}, "column 'text' is empty"),
    ],
)
def test_a_row_that_lacks_what_the_template_needs_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        projected({"name": "intent"}, values)


@pytest.mark.parametrize("more", [{}, {"input": None}, {"input": ""}, {"input": " "}])
def test_an_optional_field_may_be_missing(more: dict[str, Any]) -> None:
    row = {"instruction": "do", "output": "done", **more}
    assert projected({"name": "instruction"}, row) == Projected({"instruction": "do", "input": ""}, "done")


def test_labels_in_the_data_are_the_names_of_choices() -> None:
    assert row_choices({"text": ["red", "green"], "label": [1, "2"]}, "c") == (("red", "green"), ("1", "2"))


@pytest.mark.parametrize("value", [["a", 1], '["a", "1"]', {"text": ["a", "1"]}, '{"text": ["a", 1]}'])
def test_choices_are_a_list_or_an_object_with_texts_or_either_as_json(value: object) -> None:
    assert row_choices(value, "c") == (("a", "1"), ())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a, b", "'c' is no JSON list"),
        (7, "'c' is no list of texts"),
        (["a", ["b"]], "'c' is no list of texts"),
        (["a", None], "'c' is no list of texts"),
        ({"other": ["a", "b"]}, "'c' is no list of texts"),
        (["a"], "'c' has fewer than two choices"),
        (["a", " a"], "'c' has the same choice twice"),
        (["caf\u00e9", "cafe\u0301"], "'c' has the same choice twice"),
        (["a", " "], "'c' has an empty choice"),
        ({"text": ["a", "b"], "label": ["A"]}, "'c' has not one label for each choice"),
    ],
)
def test_other_choices_are_refused(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        row_choices(value, "c")


def test_the_digest_changes_with_everything_that_changes_a_rendering() -> None:
    specs: list[dict[str, Any]] = [
        {"name": "intent"},
        {"name": "topic"},
        {"name": "intent", "columns": {"text": "utterance"}},
        {"name": "intent", "choices": ["a", "b"]},
        {"name": "intent", "choices": ["b", "a"]},
        {"inline": {"prompt": "a", "completion": "b"}},
        {"inline": {"prompt": "b", "completion": "a"}},
        {"name": "raw"},
        {"name": "instruction"},
    ]
    digests = [resolve_template(Template.model_validate(s)).digest for s in specs]
    assert len(set(digests)) == len(specs)
    assert digests[0] == resolve_template(Template.model_validate({"name": "intent", "columns": {}})).digest
