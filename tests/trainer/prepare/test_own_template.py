"""A template document that is not the library's: the tenant's own, out of a ConfigMap, or the runtime's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from finetune_api.job import FineTuneJobSpec
from finetune_api.names import mount_path
from finetune_api.reasons import Reason
from finetune_api.runtime import ResolvedStorage
from finetune_api.templates import RuntimeTemplate
from finetune_trainer.errors import StageError
from finetune_trainer.storage.access import Access
from finetune_trainer.storage.templatefile import fetch_template
from tests.support.prepare_kit import Dataset, spec_of, texts_of

DOCUMENT = """
name: urgency
description: How soon somebody has to look at a ticket.
fields:
  ticket: {description: The ticket., column: body}
  product: {description: What it is about., optional: true}
  urgency: {description: How soon.}
answer: urgency
choices: [later, now]
metric: MacroF1
truncate: {ticket: end}
prompt: |
  How urgent is this ticket{% if product %} about {{ product }}{% endif %}? {{ choices | listed }}

  {{ ticket }}
completion: "{{ urgency }}"
paraphrases:
  desk: |
    {{ ticket }}
    When must the desk look at it ({{ choices | listed }})?
"""
ROWS: list[dict[str, Any]] = [{"body": f"ticket {i}", "urgency": ("later", "now")[i % 2]} for i in range(60)]
SPLIT = {"trainPercent": 60, "validationPercent": 20, "testPercent": 20}
NAMED: dict[str, Any] = {"name": "urgency"}
REF = {"configMapRef": {"name": "templates", "key": "urgency.yaml"}}


def spec(**template: Any) -> FineTuneJobSpec:
    return spec_of({**REF, **template}, dataset={"split": SPLIT})


@pytest.fixture
def tickets(dataset: Dataset) -> Dataset:
    dataset.template_source = DOCUMENT
    return dataset


def refused(tickets: Dataset, document: str, **template: Any) -> str:
    tickets.template_source = document
    error = tickets.refused(ROWS, spec(**template))
    assert error.reason is Reason.TEMPLATE_INVALID
    return error.message


def test_it_works_as_one_of_the_library(tickets: Dataset, chat: PreTrainedTokenizerFast) -> None:
    prepared = tickets.prepare(ROWS, spec())
    assert prepared.summary.dropped == 0
    assert [choices.texts for choices in prepared.choice_sets] == [("later", "now")]
    prompt, _ = texts_of(prepared, chat, "test")[0]
    assert "How urgent is this ticket? later, now" in prompt


def test_its_fields_are_mapped_to_columns(tickets: Dataset) -> None:
    rows = [{"text": row["body"], "urgency": row["urgency"]} for row in ROWS]
    assert tickets.prepare(rows, spec(columns={"ticket": "text"})).summary.dropped == 0


def test_its_wordings_are_used_on_demand(tickets: Dataset) -> None:
    prepared = tickets.prepare(ROWS, spec(paraphrases="All"))
    assert set(prepared.wordings) == {"default", "desk"}
    assert min(prepared.wordings.values()) > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("name: urgency", "name: intent"), "the document's name intent is one of the library; give it another"),
        (("name: urgency", "name: messages"), "the document's name messages is one of the library"),
        (("name: urgency", "nam: urgency"), "configMapRef: the document: name: is missing; nam: is no key"),
        (("{{ ticket }}\ncompl", "{{ body }}\ncompl"), "template urgency uses 'body', which is none of its fields"),
        (("{{ ticket }}\ncompl", "{{ urgency }}\ncompl"), "shows its answer, the field urgency, in the prompt"),
        (("When must", "{{ urgency }}: when must"), "completion"),
        (('"{{ urgency }}"', '"It is {{ urgency }}"'), 'completion must be "{{ urgency }}" alone'),
        (("How urgent is", "How {% urgent is"), "dataset.template: prompt, line 1"),
    ],
)  # fmt: skip
def test_a_mistake_in_it_ends_the_job_with_the_place(tickets: Dataset, change: tuple[str, str], message: str) -> None:
    assert DOCUMENT.count(change[0]) == 1
    if message == "completion":
        assert "shows its answer" in refused(tickets, DOCUMENT.replace(*change), paraphrases="All")
    else:
        assert message in refused(tickets, DOCUMENT.replace(*change))


def test_an_open_answer_must_be_read_by_the_completion(tickets: Dataset) -> None:
    document = DOCUMENT.replace("choices: [later, now]\nmetric: MacroF1\n", "").replace("choices | listed", "'x'")
    message = refused(tickets, document.replace('"{{ urgency }}"', '"{{ product }}"'))
    assert message == "the completion of dataset.template urgency does not read its answer, the field urgency"


def test_wordings_that_are_not_there_are_refused(tickets: Dataset) -> None:
    message = refused(tickets, DOCUMENT.partition("paraphrases:")[0], paraphrases="All")
    assert message.startswith("dataset.template.paraphrases is All, and template urgency has no paraphrases")


def test_the_text_is_that_of_the_key_as_it_is_mounted(tmp_path: Path) -> None:
    place = Path(mount_path("configmap", "templates", str(tmp_path)))
    place.mkdir(parents=True)
    (place / "urgency.yaml").write_text(DOCUMENT)
    assert fetch(tmp_path) == DOCUMENT


def test_a_local_run_has_no_config_map(tmp_path: Path) -> None:
    with pytest.raises(StageError) as caught:
        fetch(tmp_path)
    assert caught.value.reason is Reason.INVALID_SPEC
    assert caught.value.message.startswith(
        "dataset.template.configMapRef: a ConfigMap is there in the pods of a cluster"
    )


def test_the_text_of_the_runtimes_template_is_the_one_that_came_with_the_stage(tmp_path: Path) -> None:
    own = RuntimeTemplate(name="urgency", document=DOCUMENT)
    assert fetch(tmp_path, NAMED, own) == DOCUMENT


@pytest.mark.parametrize("own", [None, RuntimeTemplate(name="other", document=DOCUMENT)], ids=["none", "another"])
def test_a_name_without_its_text_is_never_guessed(tmp_path: Path, own: RuntimeTemplate | None) -> None:
    with pytest.raises(StageError, match="urgency is no template of the library") as caught:
        fetch(tmp_path, NAMED, own)
    assert caught.value.reason is Reason.INVALID_SPEC


def test_the_runtimes_template_works_as_one_of_the_library(tickets: Dataset, chat: PreTrainedTokenizerFast) -> None:
    rows = [{"text": row["body"], "urgency": row["urgency"]} for row in ROWS]
    prepared = tickets.prepare(rows, spec_of(NAMED | {"columns": {"ticket": "text"}}, dataset={"split": SPLIT}))
    prompt, _ = texts_of(prepared, chat, "test")[0]
    assert "How urgent is this ticket? later, now" in prompt


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("name: urgency", "name: tone"),
            " says name: tone; both names have to be the same. The platform team corrects",
        ),
        (("fields:", "filds:"), ": fields: is missing; filds: is no key of a template"),
        (("prompt: |", "prompt: {"), ": is no YAML"),
        (("answer: urgency", "answer: urgency\nanswer: ticket"), ": is no YAML: the key 'answer' stands there twice"),
    ],
)
def test_a_mistake_in_the_runtimes_template_is_told_as_the_platform_teams(
    tickets: Dataset, change: tuple[str, str], message: str
) -> None:
    tickets.template_source = DOCUMENT.replace(*change)
    error = tickets.refused(ROWS, spec_of(NAMED, dataset={"split": SPLIT}))
    assert error.reason is Reason.TEMPLATE_INVALID
    assert error.message.startswith(
        "dataset.template.name: the document of urgency in templates of the FineTuneRuntime" + message
    )
    assert error.message.endswith("The platform team corrects it there.")


def fetch(folder: Path, template: dict[str, Any] | None = None, own: RuntimeTemplate | None = None) -> str | None:
    access = Access(storage=ResolvedStorage(), credentials_dir=folder / "none", scratch=folder, data_dir=str(folder))
    asked = spec_of(template or REF, dataset={"split": SPLIT}).dataset.template
    return fetch_template(asked, own=own, access=access, folder=folder / "work")
