"""A manifest becomes the job that runs once more: pinned, settled, and with its inputs where they lie now."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_api.runtime import ResolvedStorage
from finetune_api.stage import StageInput
from finetune_trainer.errors import StageError
from finetune_trainer.job.reproduce import _verdict
from finetune_trainer.job.rerun import rerun_of
from finetune_trainer.output.finding import different, not_compared, same
from finetune_trainer.output.manifest import read_manifest
from finetune_trainer.output.surroundings import Change
from tests.support.tiny_job import job_spec

DIGEST = "sha256:" + "d" * 64
COMMIT, OTHER = "c" * 40, "e" * 40
SCORE = {"score": "0.5", "correct": 1, "total": 2}

Edit = Callable[[dict[str, Any]], object]


def rerun(edit: Edit = lambda _: None, *, cpu: bool = False, **places: str) -> StageInput:
    spec = job_spec(model="s3://abc/m/", rows="s3://abc/r.csv", output="s3://abc/o/")
    document = {
        "job": {"namespace": "team-a", "name": "tiny", "uid": "uid-1"},
        "spec": spec | {"resources": {"gpusPerNode": 1}},
        "machine": {"device": "cuda", "threads": 8},
        "versions": {"finetune-operator": "9.9.9"},
        "modelRevision": COMMIT,
        "fingerprint": DIGEST,
        "report": {
            "stage": "train",
            "specDigest": DIGEST,
            "results": {"metric": "ExactMatch", "baseline": SCORE, "test": SCORE, "gain": "+0.0"},
            "resolved": {},
        },
        "files": [],
    }
    edit(document)
    manifest = read_manifest(json.dumps(document).encode())
    assert manifest is not None
    named = {field.replace("__", "."): uri for field, uri in places.items()}
    return rerun_of(manifest, output=Path("/scratch/out"), places=named, cpu=cpu, storage=ResolvedStorage())


def refused(edit: Edit, **places: str) -> str:
    with pytest.raises(StageError) as error:
        rerun(edit, **places)
    return error.value.message


def test_the_result_goes_to_the_given_folder_and_is_that_of_the_same_spec() -> None:
    again = rerun()
    assert (again.output_uri, again.spec.output.uri) == ("file:///scratch/out/", "file:///scratch/out/")
    assert (again.stage, again.includes_prepare, again.spec_digest) == ("train", True, DIGEST)


def test_what_was_left_to_choose_is_what_was_chosen_then() -> None:
    resolved = {
        "precision": "BFloat16",
        "learningRate": "3e-4",
        "batchSize": 7,
        "selectBy": "Score",
        "metric": "MacroF1",
        "stop": ["\n"],
    }
    spec = rerun(lambda d: d["report"].update(resolved=resolved)).spec
    training, evaluation = spec.training, spec.evaluation
    assert (training.precision, training.learning_rate, training.batch_size) == ("BFloat16", "3e-4", 7)
    assert (training.select_by, evaluation.metric, evaluation.stop) == ("Score", "MacroF1", ["\n"])


def test_what_judges_a_result_is_left_out() -> None:
    gates = {"minScore": "0.9", "minGain": "0.5", "failOn": ["NoGain"]}
    evaluation = rerun(lambda d: d["spec"].update(evaluation={**gates, "limit": 5})).spec.evaluation
    assert (evaluation.min_score, evaluation.min_gain, evaluation.fail_on, evaluation.limit) == (None, None, None, 5)


@pytest.mark.parametrize(("device", "cpu", "gpus"), [("cuda", False, 1), ("cuda", True, 0), ("cpu", False, 0)])
def test_it_computes_on_the_device_of_then_unless_told_otherwise(device: str, cpu: bool, gpus: int) -> None:
    again = rerun(lambda d: d["machine"].update(device=device), cpu=cpu)
    assert again.spec.resources.gpus_per_node == gpus


def test_models_and_adapters_of_a_hub_are_taken_at_the_commits_of_then() -> None:
    def edit(d: dict[str, Any]) -> None:
        d["spec"]["model"] = {"uri": "hf://org/m", "revision": "main", "adapter": {"uri": "hf://org/a"}}
        d["adapterRevision"] = OTHER

    model = rerun(edit).spec.model
    assert model.adapter is not None
    assert (model.revision, model.adapter.revision) == (COMMIT, OTHER)


def test_rows_of_a_hub_are_taken_at_the_commit_of_then() -> None:
    def edit(d: dict[str, Any]) -> None:
        d["spec"]["dataset"]["uri"] = "hf://datasets/org/rows/config@main#train"
        d["report"]["dataset"] = {"rows": 9, "train": 5, "validation": 2, "test": 2, "revision": COMMIT}

    assert rerun(edit).spec.dataset.uri == f"hf://datasets/org/rows/config@{COMMIT}#train"


def test_each_of_several_sources_is_taken_at_its_own_commit() -> None:
    def edit(d: dict[str, Any]) -> None:
        del d["spec"]["dataset"]["uri"]
        d["spec"]["dataset"]["sources"] = [{"uri": f"hf://datasets/org/{name}#train"} for name in "ab"]
        d["spec"]["dataset"]["sources"].append({"uri": "s3://abc/r.csv"})
        counts = {"rows": 3, "train": 1, "validation": 1, "test": 1}
        sources = [{**counts, "revision": COMMIT}, {**counts, "revision": OTHER}, counts]
        d["report"]["dataset"] = {**counts, "revision": DIGEST, "sources": sources}

    sources = rerun(edit).spec.dataset.sources
    assert [one.uri for one in sources or []] == [
        f"hf://datasets/org/a@{COMMIT}#train",
        f"hf://datasets/org/b@{OTHER}#train",
        "s3://abc/r.csv",
    ]


def test_a_template_is_the_text_of_then() -> None:
    def edit(d: dict[str, Any]) -> None:
        d["spec"]["dataset"]["template"] = {"configMapRef": {"name": "prompts", "key": "a.yaml"}}
        d["templateSource"] = "prompt: then"

    assert rerun(edit).template_source == "prompt: then"


def test_a_template_whose_text_was_not_kept_is_taken_from_where_it_lies_now(tmp_path: Path) -> None:
    def edit(d: dict[str, Any]) -> None:
        d["spec"]["dataset"]["template"] = {"configMapRef": {"name": "prompts", "key": "a.yaml"}}

    assert "--at dataset.template.configMapRef=file:///…" in refused(edit)
    (tmp_path / "a.yaml").write_text("prompt: now")
    again = rerun(edit, dataset__template__configMapRef=f"file://{tmp_path}/a.yaml")
    assert again.template_source == "prompt: now"


def test_inputs_that_only_pods_have_are_named_with_the_option_that_says_where_they_lie() -> None:
    def edit(d: dict[str, Any]) -> None:
        d["spec"]["model"]["uri"] = "pvc://models/tiny/"
        d["spec"]["dataset"]["uri"] = "configmap://rows/r.csv"

    message = refused(edit)
    assert "model.uri (pvc://models/tiny/) and dataset.uri (configmap://rows/r.csv)" in message
    assert "--at model.uri=file:///… --at dataset.uri=file:///…" in message
    assert "dataset.uri" not in refused(edit, dataset__uri="file:///r.csv")
    spec = rerun(edit, dataset__uri="file:///r.csv", model__uri="file:///m/").spec
    assert (spec.dataset.uri, spec.model.uri) == ("file:///r.csv", "file:///m/")


def test_a_field_by_which_the_job_reads_nothing_is_refused_with_those_it_has() -> None:
    message = refused(lambda _: None, dataset__files__test="file:///t.csv")
    assert "--at dataset.files.test: the job reads nothing by that field; it has model.uri, dataset.uri" in message


def test_a_spec_of_another_version_is_refused_with_the_field_and_the_version() -> None:
    message = refused(lambda d: d["spec"]["training"].update(newField=1))
    assert "spec.training.newField" in message
    assert "version 9.9.9" in message


ROWS = different("split", "part test: 1 rows are new in it")
LOSS = different("losses", "1 of 5 differ", arithmetic=True, largest=1.5e-7)
FINE = same("split", "the same")
THREADS = Change(name="threads", then="2", now="4")


@pytest.mark.parametrize(
    ("findings", "changes", "gpu", "code", "words"),
    [
        ([FINE], [], False, 0, "reproduced: all that was compared is the same"),
        ([FINE], [THREADS], False, 0, "though the surroundings differ (threads 2, now 4)"),
        ([FINE, not_compared("template", "no digest")], [], False, 0, "; not compared: template"),
        ([FINE, LOSS], [], False, 40, "what differs first is losses: 1 of 5 differ"),
        ([FINE, LOSS], [THREADS], False, 41, "threads 2, now 4): losses: 1 of 5 differ; the largest difference of a "),
        ([FINE, LOSS], [], True, 41, "a GPU adds in another order each time"),
        ([ROWS, LOSS], [THREADS], True, 40, "what differs first is split: part test"),
    ],
)
def test_the_sum_of_a_comparison(findings: Any, changes: Any, gpu: bool, code: int, words: str) -> None:
    found, sentence = _verdict(findings, changes, gpu=gpu)
    assert found == code
    assert words in sentence
