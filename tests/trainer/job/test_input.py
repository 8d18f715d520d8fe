"""A local run reads the same manifest strictly and names all that is wrong; a pod reads what the operator tells."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_api.kube_yaml import dump_yaml
from finetune_api.names import ENV_STAGE_INPUT
from finetune_api.reasons import Reason
from finetune_api.stage import StageInput
from finetune_trainer.errors import StageError
from finetune_trainer.job.input import local_input, stage_input_from_environment
from tests.support.tiny_job import job_document, job_spec, make_stage_input

PLACES = {"model": "file:///m/", "rows": "file:///r.jsonl", "output": "file:///out/"}


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    def write(change: Callable[[dict[str, Any]], object] = lambda _: None) -> Path:
        document = copy.deepcopy(job_document(**PLACES))
        change(document)
        path = tmp_path / "job.yaml"
        path.write_text(dump_yaml(document))
        return path

    return write


def message(path: Path) -> str:
    with pytest.raises(StageError) as caught:
        local_input(path, {})
    assert caught.value.reason is Reason.INVALID_SPEC
    return caught.value.message


def test_a_manifest_becomes_one_stage_that_does_everything(written: Callable[..., Path]) -> None:
    got = local_input(written(), {})
    assert (got.stage, got.includes_prepare, got.job.name, got.output_uri) == ("train", True, "tiny", "file:///out/")


def test_the_same_manifest_owns_its_earlier_output(written: Callable[..., Path]) -> None:
    assert local_input(written(), {}).job.uid == local_input(written(), {}).job.uid


def test_an_edited_manifest_does_not_own_the_earlier_output(written: Callable[..., Path]) -> None:
    before = local_input(written(), {}).job.uid
    assert local_input(written(lambda d: d["spec"]["training"].update(epochs=9)), {}).job.uid != before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(kind="Job"), "kind must be 'FineTuneJob', not 'Job'"),
        (lambda d: d.update(apiVersion="v1"), "apiVersion must be 'finetune.dev/v1alpha1'"),
        (lambda d: d.pop("metadata"), "metadata.name"),
        (lambda d: d["spec"].pop("model"), "spec.model is missing"),
        (lambda d: d.pop("spec"), "spec"),
        (lambda d: d["spec"]["training"].update(epoch=3), "spec.training.epoch is not a field"),
        (lambda d: d["spec"]["training"].update(epochs=0), "spec.training.epochs"),
        (lambda d: d["spec"]["training"].update(method="lora"), "spec.training.method"),
        (lambda d: d["spec"]["output"].pop("uri"), "spec.output.uri is missing"),
        (lambda d: d["spec"]["dataset"]["split"].update(trainPercent=99), "must add up to 100"),
        (lambda d: d["spec"]["training"].update(learningRate=0.1), "spec.training.learningRate"),
    ],
)
def test_an_error_names_the_field_as_it_is_written(
    change: Callable[[dict[str, Any]], object], words: str, written: Callable[..., Path]
) -> None:
    assert words in message(written(change))


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        *((word, "a number") for word in ("3e-3", "1e5", ".5", "1_000", "0.1", "0o17", ".inf")),
        *((word, "true or false") for word in ("yes", "on", "n")),
    ],
)
def test_a_word_that_kubernetes_does_not_take_for_text_is_refused_here_too(
    word: str, kind: str, written: Callable[..., Path]
) -> None:
    path = written(lambda d: d["spec"]["training"].update(learningRate="PLAIN"))
    path.write_text(path.read_text().replace("PLAIN", word))
    text = f"spec.training.learningRate must be text, and is {kind} to Kubernetes; write it in quotes"
    assert message(path).endswith(text)


def test_a_block_that_stands_twice_is_refused_with_both_lines(written: Callable[..., Path]) -> None:
    path = written()
    path.write_text(path.read_text() + "  training: {epochs: 1}\n")
    lines = [n for n, line in enumerate(path.read_text().splitlines(), 1) if line.startswith("  training:")]
    assert message(path) == f"{path}: spec.training stands twice, on lines {lines[0]} and {lines[1]}; keep one"


def test_all_errors_are_named_at_once(written: Callable[..., Path]) -> None:
    def change(document: dict[str, Any]) -> None:
        document["apiVersion"] = "v1"
        document["spec"]["training"]["epochs"] = 0
        document["spec"]["modle"] = {}

    text = message(written(change))
    assert all(words in text for words in ("apiVersion", "spec.training.epochs", "spec.modle"))


def test_places_on_this_machine_are_allowed(written: Callable[..., Path]) -> None:
    assert local_input(written(), {}).spec.model.uri == "file:///m/"


def test_a_file_that_is_not_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("a: [")
    assert "is not YAML" in message(tmp_path / "job.yaml")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "can't be read" in message(tmp_path / "none.yaml")


def test_the_job_is_found_among_other_documents(written: Callable[..., Path], tmp_path: Path) -> None:
    path = written()
    path.write_text("kind: Secret\n---\n" + path.read_text())
    assert local_input(path, {}).job.name == "tiny"


def test_two_jobs_in_one_file_are_refused(written: Callable[..., Path]) -> None:
    path = written()
    path.write_text(path.read_text() + "---\n" + path.read_text())
    assert "holds 2 objects" in message(path)


def test_an_endpoint_of_the_environment_stands_for_the_runtime(written: Callable[..., Path]) -> None:
    storage = local_input(written(), {"AWS_ENDPOINT_URL": "http://127.0.0.1:9/", "AWS_REGION": "eu-1"}).storage
    assert storage.output is not None
    assert (storage.output.endpoint, storage.output.region) == ("http://127.0.0.1:9", "eu-1")


@pytest.mark.parametrize("variable", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_a_region_alone_is_that_of_aws(written: Callable[..., Path], variable: str) -> None:
    storage = local_input(written(), {variable: "eu-west-1"}).storage
    assert storage.dataset is not None
    assert (storage.dataset.endpoint, storage.dataset.region) == (None, "eu-west-1")


def test_without_an_endpoint_storage_is_aws(written: Callable[..., Path]) -> None:
    assert local_input(written(), {}).storage.output is None


def test_rendering_needs_no_output(written: Callable[..., Path]) -> None:
    path = written(lambda d: d["spec"]["output"].pop("uri"))
    assert local_input(path, {}, needs_output=False).output_uri == ""


def pod_input() -> StageInput:
    return make_stage_input("train", job_spec(model="s3://abc/m/", rows="s3://abc/r.csv", output="s3://abc/o/"))


def test_a_pod_reads_what_the_operator_tells() -> None:
    text = pod_input().model_dump_json(by_alias=True)
    assert stage_input_from_environment("train", {ENV_STAGE_INPUT: text}) == pod_input()


@pytest.mark.parametrize(
    ("variables", "words"),
    [({}, "is not set"), ({ENV_STAGE_INPUT: "{"}, ENV_STAGE_INPUT), ({ENV_STAGE_INPUT: "{}"}, "stage is missing")],
)
def test_a_pod_without_a_valid_input_says_so(variables: dict[str, str], words: str) -> None:
    with pytest.raises(StageError, match=words) as caught:
        stage_input_from_environment("train", variables)
    assert caught.value.reason is Reason.INVALID_SPEC


def test_a_stage_refuses_the_input_of_another() -> None:
    text = pod_input().model_dump_json(by_alias=True)
    with pytest.raises(StageError, match="for stage train, not prepare"):
        stage_input_from_environment("prepare", {ENV_STAGE_INPUT: text})


def test_a_field_that_only_a_newer_operator_knows_is_no_error_in_a_pod() -> None:
    text = pod_input().model_dump_json(by_alias=True).replace("{", '{"newer": 1,', 1)
    assert stage_input_from_environment("train", {ENV_STAGE_INPUT: text}).stage == "train"


def test_a_template_of_a_runtime_is_told_to_be_there_in_a_cluster_alone(written: Callable[..., Path]) -> None:
    def ask(name: str) -> str:
        return message(written(lambda d: d["spec"]["dataset"]["template"].update(name=name)))

    assert ask("urgency").endswith(
        ": spec.dataset.template.name: urgency is no template of the library; those of a FineTuneRuntime are there in "
        "a cluster alone, so give the text in spec.dataset.template.inline"
    )
    assert "sentimnt is no template of the library (did you mean sentiment?);" in ask("sentimnt")
