"""The library of templates: what every one of its documents has, and that names and page say what the data does."""

from __future__ import annotations

from importlib.resources import files
from typing import get_args

import pytest

from finetune_api.job import Template
from finetune_api.templates import OPEN_TEMPLATES, TEMPLATE_FIELDS, WORDLESS_TEMPLATES, TemplateName
from finetune_trainer.text.template.catalog import resolve_template
from finetune_trainer.text.template.document import library, read_document

LIBRARY = {document.name: document for document in library()}

DIGESTS = {
    "sentiment": "sha256:5cab25aca39852ed03b11b96dcb2e1c95502f5b40930c171fd29110a9f77084c",
    "topic": "sha256:9c4146faf93011e490a01cd3987fc657e7381db9708ca4983e22499f9c25ab24",
    "intent": "sha256:630095db904abfd6c4a32d5d795496a3e87975f4385b669fa56e677e1a1c0fb6",
    "nli": "sha256:3e59bec59c790e73222c4767c76d7a50048fa9d8fb0fd576c033bb83a197c74b",
    "qa": "sha256:f729c6ffd91344e4e3f262049db2ffe59cb808be8b542194ce12fc7beeebcb2f",
    "summarization": "sha256:e1f61401c60d7013abf078c37e7d96d12f7d238bc141cbcc5aea139f082c7ba1",
    "instruction": "sha256:a3d97b1aa540804da2744520218b6ce202d83c75606f218ee4ac75727286c2e7",
    "multiple-choice": "sha256:09ee889baf66fad24ef3bc3f67cccd6a9c46d467d3954796765ac64e87fd2059",
    "raw": "sha256:6ea8f05be2b8574ae5ee88ae7268827190bad04f42bfb78ef8fbe4da03644f8c",
    "messages": "sha256:c4503d83ab2039ca32ee5f1c792b18f4df329e304fa1890c2b66d7a14d9f3f67",
}
"""Of the templates that jobs were run with: a changed word would give another fingerprint to the same rows."""


def test_the_names_of_the_api_are_those_of_the_files() -> None:
    stems = {
        path.name.removesuffix(".yaml")
        for path in files("finetune_trainer.text.template").joinpath("library").iterdir()
    }
    assert stems == set(get_args(TemplateName)) == set(LIBRARY)


def test_the_api_knows_the_fields_of_each_template() -> None:
    assert {name: tuple(document.fields) for name, document in LIBRARY.items()} == TEMPLATE_FIELDS


def test_the_api_knows_which_templates_have_no_choices() -> None:
    assert [name for name, document in LIBRARY.items() if document.choices == "none"] == list(OPEN_TEMPLATES)


@pytest.mark.parametrize("name", LIBRARY)
def test_a_template_says_what_its_task_is_measured_by_and_shows_a_row(name: str) -> None:
    document = LIBRARY[name]
    assert document.name == name
    assert document.metric is not None
    assert document.example is not None
    assert set(document.example.row) == {field.column or key for key, field in document.fields.items()}


@pytest.mark.parametrize("name", sorted(LIBRARY.keys() - set(WORDLESS_TEMPLATES)))
def test_a_template_has_two_to_four_wordings(name: str) -> None:
    prompts = list(LIBRARY[name].prompts.values())
    assert 2 <= len(prompts) <= 4
    assert len(set(prompts)) == len(prompts)


def test_what_was_rendered_before_is_rendered_still() -> None:
    assert {name: resolve_template(Template.model_validate({"name": name})).digest for name in DIGESTS} == DIGESTS


GOOD = """
name: greeting
description: Says hello.
fields:
  who: {description: Somebody.}
  text: {description: The greeting.}
answer: text
prompt: "Greet {{ who }}"
completion: "{{ text }}"
"""


def test_a_document_says_the_least_that_it_must() -> None:
    document = read_document(GOOD)
    assert (document.name, document.choices, document.metric, document.separator) == ("greeting", "none", None, " ")
    assert document.prompts == {"default": "Greet {{ who }}"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("answer: text", "answer: reply"), "answer names 'reply', which is none of its fields: who, text"),
        (("{description: The greeting.}", "{description: x, optional: true}"), "fields.text is the answer"),
        (("answer: text", "answer: text\ntruncate: {text: end}"), "truncate names 'text'"),
        (("answer: text", "answer: text\ntruncate: {who: left}"), "truncate.who: Input should be 'start'"),
        (("answer: text", "answer: text\nchoices: row"), "choices: row goes with a field of the name choices"),
        (("  who:", "  choices: {description: x}\n  who:"), "choices: row goes with a field of the name choices"),
        (("answer: text", "answer: text\nchoices: [a]"), "choices needs two choices or more"),
        (("answer: text", "answer: text\nchoices: [a, ' a']"), "choices needs two choices or more"),
        (("answer: text", "answer: text\nchoices: [yes, no]"), "choices.list"),
        (("answer: text", "answer: text\nmetric: MacroF1"), "metric MacroF1 needs choices"),
        (("answer: text", "answer: text\nmetric: Rouge"), "metric: Input should be 'ChoiceAccuracy'"),
        (("answer: text", "answer: text\nmax_tokens: 3"), "max_tokens: is no key of a template; the keys are name"),
        (("answer: text", "answer: text\nparaphrases: {default: x}"), "a paraphrase's name"),
        (("  who:", "  to-whom:"), "a field's name is a variable of the prompt"),
        (("  who:", "  row:"), "a field's name is a variable of the prompt"),
        (("completion:", "reply:"), "reply: is no key"),
        (('completion: "{{ text }}"', ""), "prompt and completion are needed"),
        (("name: greeting", ""), "name: is missing"),
        (("{description: Somebody.}", "{description: S., kind: text}"), "fields.who.kind: is not known here"),
        (("name: greeting", "name: !!python/name:os.system x"), "is no YAML: could not determine a constructor"),
        (("name: greeting", "name: {"), "is no YAML"),
        (("answer: text", "answer: text\nanswer: who"), "is no YAML: the key 'answer' stands there twice"),
        (("{description: Somebody.}", "{description: a, description: b}"), "the key 'description' stands there twice"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_document_is_told_by_its_key(change: tuple[str, str], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the message is looked at below
        read_document(GOOD.replace(*change))
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "text", "7"])
def test_what_is_no_document_is_told_so(text: str) -> None:
    with pytest.raises(ValueError, match="is no YAML document of a template"):
        read_document(text)


def test_a_value_that_is_tagged_as_a_mapping_and_is_none_is_told() -> None:
    with pytest.raises(ValueError, match="is no YAML"):
        read_document("name: !!map [a]")
