"""What the pages under docs/ show is what the product takes: fields, paths in status, commands, links."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.job import FineTuneJobSpec
from finetune_api.kube_yaml import dump_yaml
from finetune_api.names import LABEL_JOB_NAME
from finetune_api.runtime import FineTuneRuntimeSpec
from tests.support.builders import job_spec
from tests.support.docs import PAGES, ROOT, commands, fragments

FIELD = re.compile(r"\{\.status\.([A-Za-z0-9.]+)\}")
STATUS = yaml.safe_load((ROOT / "crds/finetune.dev_finetunejobs.yaml").read_text())["spec"]["versions"][0]["schema"][
    "openAPIV3Schema"
]["properties"]["status"]


def _by_page(found: dict[Path, list[Any]]) -> list[Any]:
    return [pytest.param(one, id=f"{page.stem}-{i}") for page, all_of in found.items() for i, one in enumerate(all_of)]


OURS = (None, "FineTuneJob", "FineTuneRuntime")
OF_A_RUNTIME = {field.alias for field in FineTuneRuntimeSpec.model_fields.values()} - {
    field.alias for field in FineTuneJobSpec.model_fields.values()
}
FRAGMENTS = _by_page({page: [f for f in fragments(page) if f.get("kind") in OURS] for page in PAGES})
KUBECTL = _by_page({page: commands(page, "kubectl") for page in PAGES})
# Those of reproduce need a finished job: tests/trainer/job/test_reproduce.py runs them.
TRAINER = _by_page(
    {page: [c for c in commands(page, "finetune-trainer") if c.split()[1] != "reproduce"] for page in PAGES}
)


def _merged(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Lay a fragment over a whole spec; a template is taken as it is, since its parts exclude each other.

    So do files, sources and uri.
    """
    out = {key: value for key, value in base.items() if key != "uri" or not {"files", "sources"} & more.keys()}
    for key, value in more.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict) and key != "template"
        out[key] = _merged(base[key], value) if both else value
    return out


def test_there_is_something_to_check() -> None:
    assert FRAGMENTS
    assert KUBECTL
    assert TRAINER


def test_the_page_about_runtimes_shows_whole_ones() -> None:
    whole = [f for f in fragments(ROOT / "docs/runtimes.md") if f.get("kind") == "FineTuneRuntime"]
    assert whole
    for runtime in whole:
        FineTuneRuntimeSpec.model_validate(runtime["spec"], extra="forbid")


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_every_part_of_a_manifest_is_accepted_as_it_stands(fragment: dict[str, Any]) -> None:
    spec = fragment.get("spec", fragment)
    if OF_A_RUNTIME & set(spec):
        FineTuneRuntimeSpec.model_validate(
            _merged({"image": "registry.example.com/trainer@sha256:" + "1" * 64}, spec), extra="forbid"
        )
    else:
        FineTuneJobSpec.model_validate(_merged(job_spec(), spec), extra="forbid")


@pytest.mark.parametrize("command", KUBECTL)
def test_every_path_in_status_that_a_command_names_exists(command: str) -> None:
    paths = FIELD.findall(command)
    assert paths
    for path in paths:
        at = STATUS
        for name in path.split("."):
            assert name in at.get("properties", {}), f"{path}: {name}"
            at = at["properties"][name]


CLUSTER_WIDE = re.compile(r"explain|(get|edit) ftr|--all-namespaces|delete crd|apply")


@pytest.mark.parametrize("page", [pytest.param(page, id=page.stem) for page in sorted((ROOT / "docs").glob("*.md"))])
def test_every_kubectl_command_names_the_namespace_alike(page: Path) -> None:
    told = re.findall(r"kubectl [a-z][^`\n]*", page.read_text(encoding="utf-8"))
    assert [c for c in told if not CLUSTER_WIDE.search(c) and "-n NAMESPACE" not in c] == []


def test_the_command_for_logs_chooses_pods_by_the_label_that_they_have() -> None:
    assert f"-l {LABEL_JOB_NAME}=NAME" in (ROOT / "docs/troubleshooting.md").read_text()


@pytest.mark.parametrize("command", TRAINER)
def test_every_trainer_command_runs(command: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(
        "".join(f'{{"text": "text {i}", "label": "{"ab"[i % 2]}"}}\n' for i in range(40)), encoding="utf-8"
    )
    job = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "topics"},
        "spec": {
            "model": {"uri": f"file://{tmp_path}/model/"},
            "dataset": {"uri": f"file://{tmp_path}/rows.jsonl", "template": {"name": "topic"}},
            "output": {"uri": f"file://{tmp_path}/out/"},
        },
    }
    (tmp_path / "job.yaml").write_text(dump_yaml(job), encoding="utf-8")
    program = Path(sys.executable).with_name("finetune-trainer")
    done = subprocess.run(
        [program, *command.split()[1:]], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "text " in done.stdout


@pytest.mark.parametrize("page", [pytest.param(page, id=page.stem) for page in sorted((ROOT / "docs").glob("*.md"))])
def test_every_link_of_a_page_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
