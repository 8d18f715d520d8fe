"""From a row's values to what a template needs."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.job import Template
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.text.template.catalog import resolve_template, template_of
from finetune_trainer.text.template.document import library_document
from finetune_trainer.text.template.fields import Projected, project, row_choices
from finetune_trainer.text.template.survey import AnswerSurvey


def projected(template: dict[str, Any], values: dict[str, Any]) -> Projected:
    resolved = resolve_template(Template.model_validate(template))
    survey = AnswerSurvey(resolved)
    survey.add("line 1", values)
    return project(resolved, values, survey.judge()[0])


FIELDS = {
    "sentiment": ["text", "label"],
    "star-rating": ["text", "label"],
    "topic": ["text", "label"],
    "intent": ["text", "label"],
    "spam": ["text", "label"],
    "toxicity": ["text", "label"],
    "emotion": ["text", "label"],
    "stance": ["text", "target", "label"],
    "classification": ["text", "label"],
    "nli": ["premise", "hypothesis", "label"],
    "paraphrase": ["sentence1", "sentence2", "label"],
    "duplicate-question": ["question1", "question2", "label"],
    "boolean-qa": ["passage", "question", "answer"],
    "multiple-choice": ["question", "choices", "answer"],
    "commonsense-ending": ["context", "choices", "answer"],
    "qa": ["context", "question", "answer"],
    "extractive-qa": ["context", "question", "answer"],
    "closed-qa": ["question", "answer"],
    "entities": ["text", "entities"],
    "key-values": ["text", "keys", "values"],
    "slot-filling": ["text", "slots"],
    "summarization": ["text", "summary"],
    "headline": ["text", "headline"],
    "dialogue-summary": ["dialogue", "summary"],
    "translation": ["source", "target", "source_language", "target_language"],
    "correction": ["text", "corrected"],
    "simplification": ["text", "simple"],
    "data-to-text": ["data", "text"],
    "question-generation": ["context", "answer", "question"],
    "review-generation": ["product", "rating", "review"],
    "text-to-sql": ["schema", "question", "query"],
    "final-answer": ["question", "answer"],
    "code-explanation": ["code", "language", "explanation"],
    "instruction": ["instruction", "input", "output"],
    "messages": ["messages"],
    "raw": ["prompt", "completion"],
}
OPTIONAL = {
    "key-values": ["keys"],
    "translation": ["source_language", "target_language"],
    "question-generation": ["answer"],
    "review-generation": ["rating"],
    "code-explanation": ["language"],
    "instruction": ["input"],
}


@pytest.mark.parametrize("name", FIELDS)
def test_the_fields_of_every_template_are_as_promised(name: str) -> None:
    template = resolve_template(Template.model_validate({"name": name}))
    assert [f.name for f in template.fields] == FIELDS[name]
    assert [f.name for f in template.fields if f.optional] == OPTIONAL.get(name, [])
    assert all(f.description for f in template.fields)


@pytest.mark.parametrize(
    ("template", "message"),
    [
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


def test_columns_for_a_field_that_a_newer_version_knows_are_refused() -> None:
    """The API server refuses those of its own version."""
    with pytest.raises(StageError) as caught:
        template_of(library_document("intent"), columns={"utterance": "text"}, choices=None)
    assert caught.value.reason is Reason.TEMPLATE_INVALID
    told = "maps 'utterance', which is no field of template intent; its fields are text, label"
    assert told in caught.value.message


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


ENTITIES = {"name": "entities"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"person": ["Ada"], "n": 1}, '{"person": ["Ada"], "n": 1}'),
        ('{"person":["Ada"],\n "n":1}', '{"person": ["Ada"], "n": 1}'),
        (["Zoë"], '["Zoë"]'),
        ({}, "{}"),
        ([], "[]"),
        ("[]", "[]"),
    ],
)
def test_json_has_one_form_however_the_row_spells_it(value: object, text: str) -> None:
    assert projected(ENTITIES, {"text": "t", "entities": value}).answer == text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{person: Ada}", "column 'entities' is no JSON"),
        ("[1,", "column 'entities' is no JSON"),
        ('{"a": NaN}', "column 'entities' is no JSON: NaN is not a JSON number"),
        ('{"a": 1, "a": 2}', "column 'entities' is no JSON: the key 'a' stands twice"),
        ('{"a": "\\ud83d"}', "column 'entities' is no JSON: holds half of a surrogate pair"),
        ("[" * 100000, "column 'entities' is no JSON"),
        ("Ada", "column 'entities' is no JSON"),
        ("7", "column 'entities' holds no JSON object and no list"),
        (7, "column 'entities' holds no JSON object and no list"),
        ('"Ada"', "column 'entities' holds no JSON object and no list"),
        ("", "column 'entities' is empty"),
        (None, "column 'entities' is empty"),
    ],
)
def test_what_is_no_json_makes_a_bad_row(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        projected(ENTITIES, {"text": "t", "entities": value})


@pytest.mark.parametrize(
    ("value", "text"), [({"a": 1}, '{"a": 1}'), (["a"], '["a"]'), (" a, b ", "a, b"), ("{a: b}", "{a: b}"), (3, "3")]
)
def test_data_is_a_text_or_json(value: object, text: str) -> None:
    assert projected({"name": "data-to-text"}, {"data": value, "text": "t"}).inputs == {"data": text}


@pytest.mark.parametrize("value", [{}, [], "", None])
def test_data_that_is_empty_makes_a_bad_row(value: object) -> None:
    with pytest.raises(ValueError, match="column 'data' is empty"):
        projected({"name": "data-to-text"}, {"data": value, "text": "t"})


@pytest.mark.parametrize("value", [{}, [], "", None])
def test_keys_that_are_empty_count_as_missing(value: object) -> None:
    row = {"text": "t", "keys": value, "values": {"a": 1}}
    assert projected({"name": "key-values"}, row).inputs == {"text": "t", "keys": ""}


def test_code_keeps_the_indentation_of_its_first_line() -> None:
    row = {"code": "\r\n\n    return x\r\n    # end\n\n", "explanation": "e"}
    inputs = projected({"name": "code-explanation"}, row).inputs
    assert inputs["code"] == "    return x\n    # end"


def test_a_field_may_have_a_column_of_its_own_name() -> None:
    row = {"context": "c", "endings": ["a", "b"], "answer": "b"}
    assert projected({"name": "commonsense-ending"}, row).choices == ("a", "b")
    mapped = {"name": "commonsense-ending", "columns": {"choices": "ends"}}
    assert projected(mapped, {"context": "c", "ends": ["a", "b"], "answer": "b"}).choices == ("a", "b")


def test_choices_of_the_job_stand_before_those_of_the_template() -> None:
    own = resolve_template(Template.model_validate({"name": "paraphrase"}))
    given = resolve_template(Template.model_validate({"name": "paraphrase", "choices": ["different", "same"]}))
    assert (own.choices, own.own_choices) == (("no", "yes"), True)
    assert (given.choices, given.own_choices) == (("different", "same"), False)
