"""``model.adapter``: jobs that begin with the adapter that an earlier one left, or with one that must not be taken."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune_api.reasons import Reason
from finetune_api.report import StageReport
from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.model.load import load_model
from finetune_trainer.output.verify import load_with_adapter
from finetune_trainer.prepare.prepare import load_prepared
from tests.support.stage_run import Finished, run
from tests.support.tiny_job import job_spec, make_stage_input
from tests.support.tiny_model import Architecture, make_model

CPU = torch.device("cpu")
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture
def given(lora_on_disk: Finished, tmp_path: Path) -> Path:
    """A copy of the adapter that the earlier job left."""
    return Path(shutil.copytree(lora_on_disk.output / "adapter", tmp_path / "given"))


@pytest.fixture
def spec(tiny: Path, given: Path, tmp_path: Path) -> dict[str, Any]:
    """A job on the same rows that goes on from it."""
    spec = job_spec(
        model=f"file://{tiny}/model/",
        rows=f"file://{tiny}/rows.jsonl",
        output=f"file://{tmp_path}/out/",
        method="LoRA",
        learningRate="5e-3",
        batchSize=8,
        epochs=1,
    )
    spec["model"]["adapter"] = {"uri": f"file://{given}/"}
    return spec


def train(spec: dict[str, Any], folder: Path) -> tuple[StageReport, list[dict[str, Any]]]:
    return run(make_stage_input("train", spec, includes_prepare=True), folder)


def done(spec: dict[str, Any], folder: Path) -> StageReport:
    report, _ = train(spec, folder)
    assert report.failure is None, report.failure
    return report


def refused(spec: dict[str, Any], folder: Path) -> tuple[Reason, str]:
    """What prepare says, which has no torch and asks for no GPU."""
    report, _ = run(make_stage_input("prepare", spec), folder)
    assert report.failure is not None
    return report.failure.reason, report.failure.message


def edit(given: Path, **settings: Any) -> None:
    path = given / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def retensor(given: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(change(load_file(given / TENSORS)), given / TENSORS)


def test_the_baseline_is_the_score_of_the_job_that_left_the_adapter(
    spec: dict[str, Any], lora_on_disk: Finished, tmp_path: Path
) -> None:
    report = done(spec, tmp_path)
    before, earlier = report.results, lora_on_disk.report.results
    assert before is not None
    assert earlier is not None
    # That job's score is the merged model's, whose last bits differ.
    assert before.baseline.score == earlier.test.score
    assert before.baseline.correct == earlier.test.correct
    assert float(before.baseline.loss or "") == pytest.approx(float(earlier.test.loss or ""), rel=1e-3)


def test_the_first_step_begins_at_the_loss_that_the_adapter_has_on_its_rows(
    spec: dict[str, Any], tiny: Path, given: Path, tmp_path: Path
) -> None:
    spec["training"].update(batchSize=1000, epochs=1)  # one step of all rows
    done(spec, tmp_path)
    first = json.loads((tmp_path / "out/metrics.jsonl").read_text().splitlines()[0])
    loaded = load_with_adapter(tiny / "model", given, device=CPU, precision="Float32")
    prepared = load_prepared(tmp_path / "out/prepared")
    part = prepared.parts["train"]
    expected = evaluate(loaded, part, prepared, texts=(), generate=False).loss
    bare = evaluate(
        load_model(tiny / "model", device=CPU, precision="Float32"), part, prepared, texts=(), generate=False
    ).loss
    assert first["train_loss"] == pytest.approx(expected, rel=1e-4)
    assert bare > 3 * expected


def test_the_exported_adapter_holds_both_trainings_over_the_base(
    spec: dict[str, Any], tiny: Path, given: Path, tmp_path: Path
) -> None:
    report = done(spec, tmp_path)
    written = tmp_path / "out/adapter"
    before, after = load_file(given / TENSORS), load_file(written / TENSORS)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    loaded = load_with_adapter(tiny / "model", written, device=CPU, precision="Float32")
    prepared = load_prepared(tmp_path / "out/prepared")
    score = evaluate(loaded, prepared.parts["test"], prepared, texts=prepared.texts["test"], generate=False).score()
    assert report.results is not None
    assert score.score == report.results.test.score


@pytest.mark.parametrize("export", ["Model", "Both"])
def test_a_merged_export_passes_its_proof(spec: dict[str, Any], tmp_path: Path, export: str) -> None:
    spec["output"]["export"] = export
    report = done(spec, tmp_path)
    assert {artifact.name for artifact in report.artifacts or []} >= {"model"}
    assert not (tmp_path / "out/model" / CONFIG).exists()


def test_method_full_merges_the_adapter_first(
    spec: dict[str, Any], lora_on_disk: Finished, tiny: Path, tmp_path: Path
) -> None:
    spec["training"].update(method="Full", learningRate="1e-6", maxSteps=1)
    report = done(spec, tmp_path)
    assert report.results is not None
    assert lora_on_disk.report.results is not None
    assert report.results.baseline.score == lora_on_disk.report.results.test.score
    mine = load_file(tmp_path / "out/model/model.safetensors")
    merged = load_file(lora_on_disk.output / "model/model.safetensors")
    base = load_file(tiny / "model/model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    torch.testing.assert_close(mine[name], merged[name], atol=1e-5, rtol=0)
    assert not torch.allclose(mine[name], base[name], atol=1e-3)
    assert not (tmp_path / "out/adapter").exists()


def test_the_report_the_manifest_and_the_card_name_the_adapter(
    spec: dict[str, Any], given: Path, tmp_path: Path
) -> None:
    report = done(spec, tmp_path)
    assert report.resolved is not None
    revision = report.resolved.adapter_revision
    assert revision is not None
    assert revision.startswith("sha256:")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["adapterRevision"] == revision
    assert manifest["spec"]["model"]["adapter"] == {"uri": f"file://{given}/"}
    told = "every score before fine-tuning is that of the model with it"
    assert told in (tmp_path / "out/README.md").read_text()
    assert f"with the adapter file://{given}/" in (tmp_path / "out/report/index.html").read_text()


def test_a_changed_adapter_is_no_reason_to_reuse_a_result(spec: dict[str, Any], given: Path, tmp_path: Path) -> None:
    done(spec, tmp_path)
    again, _ = run(make_stage_input("train", spec, includes_prepare=True, uid="uid-2"), tmp_path)
    assert again.reused
    retensor(given, lambda tensors: {name: tensor * 0.5 for name, tensor in tensors.items()})
    report, _ = run(make_stage_input("train", spec, includes_prepare=True, uid="uid-3"), tmp_path)
    assert report.failure is not None
    assert report.failure.reason is Reason.OUTPUT_EXISTS
    assert "of another adapter" in report.failure.message


def test_an_adapter_that_changes_between_the_stages_is_told(spec: dict[str, Any], given: Path, tmp_path: Path) -> None:
    first, _ = run(make_stage_input("prepare", spec), tmp_path)
    assert first.failure is None, first.failure
    retensor(given, lambda tensors: {name: tensor * 0.5 for name, tensor in tensors.items()})
    report, _ = run(make_stage_input("train", spec, prepared_digest=first.digest), tmp_path)
    assert report.failure is not None
    assert report.failure.reason is Reason.VERIFICATION_FAILED
    assert "model.adapter.uri" in report.failure.message


def test_settings_that_agree_are_taken_and_the_dropout_is_the_jobs(spec: dict[str, Any], tmp_path: Path) -> None:
    spec["training"]["lora"] = {"rank": 16, "alpha": 32, "dropout": "0.1"}
    done(spec, tmp_path)
    assert json.loads((tmp_path / "out/adapter" / CONFIG).read_text())["lora_dropout"] == 0.1


@pytest.mark.parametrize(
    ("lora", "told"),
    [
        ({"rank": 8}, "training.lora.rank is 8, and the adapter at {uri} has 16; write rank: 16"),
        ({"alpha": 16}, "training.lora.alpha is 16, and the adapter at {uri} has 32"),
        ({"useDora": True}, "training.lora.useDora is true, and the adapter at {uri} has false"),
        ({"useRslora": True}, "training.lora.useRslora is true"),
        ({"targetModules": ["q_proj"]}, "training.lora.targetModules is q_proj, and the adapter at {uri} lies on"),
        ({"initLoraWeights": "Gaussian"}, "training.lora.initLoraWeights is Gaussian"),
    ],
)
def test_settings_that_contradict_the_adapter_are_refused_with_both(
    spec: dict[str, Any], tmp_path: Path, lora: dict[str, Any], told: str
) -> None:
    spec["training"]["lora"] = lora
    reason, message = refused(spec, tmp_path)
    assert reason is Reason.INVALID_SPEC
    assert told.format(uri=spec["model"]["adapter"]["uri"]) in message


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa'"),
        ({"init_lora_weights": "olora"}, "a base that was changed"),
        ({"modules_to_save": ["lm_head"]}, "sets modules_to_save"),
        ({"bias": "all"}, "has bias all"),
        ({"lora_bias": True}, "sets lora_bias"),
        ({"trainable_token_indices": [1, 2]}, "sets trainable_token_indices"),
        ({"layer_replication": [[0, 1]]}, "sets layer_replication"),
        ({"alora_invocation_tokens": [5]}, "sets alora_invocation_tokens"),
        ({"use_of_a_later_version": {"a": 1}}, "sets use_of_a_later_version"),
        ({"peft_type": "LOHA"}, "of kind LOHA"),
        ({"task_type": "SEQ_CLS"}, "task_type SEQ_CLS"),
        ({"task_type": "SEQ_2_SEQ_LM"}, "it has task_type SEQ_2_SEQ_LM, and that model is for CAUSAL_LM"),
        ({"r": 0}, "has r 0"),
        ({"lora_alpha": 0.5}, "has lora_alpha 0.5"),
        ({"r": 4096}, "rank"),
    ],
)
def test_a_setting_that_would_be_passed_over_is_refused(
    spec: dict[str, Any], given: Path, tmp_path: Path, settings: dict[str, Any], told: str
) -> None:
    edit(given, **settings)
    reason, message = refused(spec, tmp_path)
    assert reason is Reason.MODEL_INVALID
    assert "model.adapter.uri" in message
    assert told in message


def test_an_adapter_of_another_width_is_refused_with_both_shapes(
    spec: dict[str, Any], given: Path, tmp_path: Path
) -> None:
    retensor(given, lambda tensors: {n: t[:, :16].contiguous() if "lora_A" in n else t for n, t in tensors.items()})
    reason, message = refused(spec, tmp_path)
    assert reason is Reason.MODEL_INVALID
    assert "is for another model" in message
    assert "16 by 16, and the layer is " in message


def test_an_adapter_with_more_layers_than_the_base_is_refused(
    spec: dict[str, Any], given: Path, tmp_path: Path
) -> None:
    retensor(given, lambda tensors: {n.replace("layers.1", "layers.7"): t for n, t in tensors.items()})
    reason, message = refused(spec, tmp_path)
    assert reason is Reason.MODEL_INVALID
    assert "it changes layer 7" in message
    assert "has 2 layers" in message


@pytest.mark.parametrize("method", ["LoRA", "Full"])
@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.replace("q_proj", "query"),  # no layer of that name
        lambda name: name.replace("layers.1.mlp.up_proj", "layers.1.mlp.other_proj"),  # one alone
    ],
)
def test_a_tensor_that_no_layer_takes_is_never_passed_over(
    spec: dict[str, Any], given: Path, tmp_path: Path, rename: Callable[[str], str], method: str
) -> None:
    retensor(given, lambda tensors: {rename(name): tensor for name, tensor in tensors.items()})
    spec["training"]["method"] = method
    report, log = train(spec, tmp_path)
    assert report.failure is not None
    assert report.failure.reason is Reason.MODEL_INVALID
    assert "does not fit the model at model.uri" in report.failure.message
    assert not any(line["event"] == "baseline_score" for line in log)  # no time was spent


def test_a_tensor_that_is_missing_is_never_made_up(spec: dict[str, Any], given: Path, tmp_path: Path) -> None:
    retensor(given, lambda tensors: {n: t for n, t in tensors.items() if "layers.1.self_attn.q_proj" not in n})
    report, _ = train(spec, tmp_path)
    assert report.failure is not None
    assert report.failure.reason is Reason.MODEL_INVALID
    assert "the adapter lacks model.layers.1.self_attn.q_proj.lora_A.weight" in report.failure.message


def test_an_adapter_on_the_head_or_the_embeddings_is_refused(spec: dict[str, Any], given: Path, tmp_path: Path) -> None:
    retensor(given, lambda t: {**t, "base_model.model.lm_head.lora_A.weight": torch.zeros(16, 32)})
    reason, message = refused(spec, tmp_path)
    assert (reason, "embeddings or the head" in message) == (Reason.MODEL_INVALID, True)


def test_numbers_that_are_none_are_refused(spec: dict[str, Any], given: Path, tmp_path: Path) -> None:
    retensor(given, lambda tensors: {name: tensor * torch.nan for name, tensor in tensors.items()})
    report, _ = train(spec, tmp_path)
    assert report.failure is not None
    assert report.failure.reason is Reason.MODEL_INVALID
    assert "NaN" in report.failure.message


def test_pickles_are_never_opened(spec: dict[str, Any], given: Path, tmp_path: Path) -> None:
    (given / TENSORS).rename(given / "adapter_model.bin")
    reason, message = refused(spec, tmp_path)
    assert (reason, "adapter_model.bin" in message) == (Reason.UNSAFE_MODEL, True)


def test_a_whole_model_is_no_adapter(spec: dict[str, Any], tiny: Path, tmp_path: Path) -> None:
    spec["model"]["adapter"]["uri"] = f"file://{tiny}/model/"
    reason, message = refused(spec, tmp_path)
    assert (reason, "name it as model.uri" in message) == (Reason.MODEL_INVALID, True)


def test_the_output_of_a_job_in_place_of_its_adapter_is_told_with_the_folder(
    spec: dict[str, Any], lora_on_disk: Finished, tmp_path: Path
) -> None:
    spec["model"]["adapter"]["uri"] = f"file://{lora_on_disk.output}/"
    reason, message = refused(spec, tmp_path)
    assert reason is Reason.MODEL_NOT_FOUND
    assert "there is one below adapter/" in message


def test_a_file_that_was_cut_short_is_told_as_the_adapters(spec: dict[str, Any], given: Path, tmp_path: Path) -> None:
    data = (given / TENSORS).read_bytes()
    (given / TENSORS).write_bytes(data[: len(data) // 2])
    reason, message = refused(spec, tmp_path)
    assert reason is Reason.MODEL_INVALID
    assert message.startswith("model.adapter.uri: ")
    assert "was cut short" in message


def test_another_name_of_the_base_only_warns(spec: dict[str, Any], given: Path, tmp_path: Path) -> None:
    edit(given, base_model_name_or_path="org/other")
    report, log = run(make_stage_input("prepare", spec), tmp_path)
    assert report.failure is None, report.failure
    (warning,) = [line for line in log if line["event"] == "adapter_base"]
    assert "org/other" in warning["message"]


@pytest.mark.parametrize(("architecture", "lora"), [("gpt2", {}), ("llama", {"useDora": True, "rank": 4})])
def test_turned_layers_and_dora_go_on_where_they_were(
    tiny: Path, tmp_path: Path, architecture: Architecture, lora: dict[str, Any]
) -> None:
    make_model(tmp_path / "model", architecture=architecture)
    places = {"model": f"file://{tmp_path}/model/", "rows": f"file://{tiny}/rows.jsonl"}
    first = job_spec(**places, output=f"file://{tmp_path}/one/", method="LoRA", lora=lora, epochs=2, maxLength=256)
    earlier = done(first, tmp_path)
    second = job_spec(**places, output=f"file://{tmp_path}/two/", method="LoRA", epochs=1, maxLength=256)
    second["model"]["adapter"] = {"uri": f"file://{tmp_path}/one/adapter/"}
    later = done(second, tmp_path)
    assert earlier.results is not None
    assert later.results is not None
    assert later.results.baseline.model_dump() == earlier.results.test.model_dump()
