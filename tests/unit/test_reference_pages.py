"""The tables of docs/status.md, output.md and operating.md name what the product has: all of it and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, get_args

import yaml
from prometheus_client.parser import text_string_to_metric_families

from finetune_api.crd import job_crd
from finetune_api.names import child_labels
from finetune_api.status import Phase
from finetune_operator.decide.conditions import CONDITION_TYPES
from finetune_operator.process.metrics import Metrics
from finetune_trainer.output.folder import JOB_FILES, JOB_FOLDERS, LOGS, OWNER
from tests.chart.kit import OPERATOR_RULES
from tests.support.docs import ROOT


def rows(page: str, heading: str) -> list[list[str]]:
    """Rows of the first table below a heading, without its head."""
    section = (ROOT / "docs" / page).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    assert lines, f"{page} has no table below {heading}"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def first(page: str, heading: str) -> list[str]:
    return [word for row in rows(page, heading) for word in words(row[0])]


def test_the_columns_are_those_of_the_definition_in_their_order() -> None:
    columns = job_crd()["spec"]["versions"][0]["additionalPrinterColumns"]
    named = [column["name"].upper() for column in columns]
    assert first("status.md", "Columns") == named
    wide = [row[0].strip("`") for row in rows("status.md", "Columns") if "-o wide" in row[1]]
    assert wide == [column["name"].upper() for column in columns if column.get("priority")]


def test_the_phases_are_all_that_a_job_can_have() -> None:
    assert first("status.md", "Phases") == list(get_args(Phase))


def test_the_conditions_are_those_that_every_status_has() -> None:
    assert first("status.md", "Conditions") == list(CONDITION_TYPES)


def test_the_events_are_all_that_the_operator_makes_besides_those_of_what_a_job_waits_for() -> None:
    made: dict[str, str] = {}
    for path in (ROOT / "operator/finetune_operator/decide").glob("*.py"):
        for found in re.finditer(r'\bEvent\(\s*reason="(\w+)"(?:[^()]|\([^()]*\))*\)', path.read_text()):
            made[found[1]] = "Warning" if 'type="Warning"' in found[0] else "Normal"
    told = {reason: row[1] for row in rows("status.md", "Events") for reason in words(row[0])}
    assert told == made
    assert len(made) >= 9


def test_the_folder_is_told_whole() -> None:
    assert sorted(first("output.md", "The folder")) == sorted([OWNER, LOGS, *JOB_FOLDERS, *JOB_FILES])


def test_the_metrics_and_their_labels_are_those_that_are_served() -> None:
    metrics = Metrics()
    metrics.look_at(jobs=lambda: [{"metadata": {"namespace": "a"}}], queue_depth=lambda: 0)
    metrics.reconciled("ok", seconds=0.1)
    metrics.job_ended(namespace="team-a", result="Succeeded", reason="Completed", seconds=1)
    metrics.requested("get", "jobs", 200)
    metrics.resynced("ok")
    metrics.reported(204)
    served: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels: Iterable[str] = {label for sample in family.samples for label in sample.labels}
        served[name] = set(labels) - {"le"}
    assert {words(row[0])[0]: set(words(row[1])) for row in rows("operating.md", "Metrics")} == served


def test_the_rights_of_the_operator_are_those_that_the_chart_gives() -> None:
    given = {(",".join(rule["resources"]), ",".join(rule["verbs"])) for rule in OPERATOR_RULES}
    table = rows("operating.md", "What the operator may do")
    assert {(",".join(words(row[0])), ",".join(words(row[1]))) for row in table} == given


def test_the_network_policy_chooses_the_pods_of_jobs() -> None:
    text = (ROOT / "docs/operating.md").read_text()
    policy: dict[str, Any] = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])  # type: ignore[index]
    (chosen,) = policy["spec"]["podSelector"]["matchExpressions"]
    assert chosen["operator"] == "Exists"
    assert chosen["key"] in child_labels("a", "0f3c9a1b-7d0c-4e0a-9b1c-2d3e4f5a6b7c", "train")
