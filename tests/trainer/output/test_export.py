"""From a trained model to files and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_api.job import LoRA
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.evaluation.results import Evaluation
from finetune_trainer.model.device import Precision
from finetune_trainer.model.load import LoadedModel, load_model
from finetune_trainer.model.lora import add_lora
from finetune_trainer.output import export as export_module
from finetune_trainer.output.export import ExportKind, export, reload_and_compare
from finetune_trainer.output.verify import compare
from finetune_trainer.prepare.prepared import Prepared
from finetune_trainer.training.loop import train
from finetune_trainer.training.plan import Hyperparameters
from tests.support.tiny_model import ARCHITECTURES, Architecture, make_model, make_prepared

CPU = torch.device("cpu")
TYPES = [torch.float32, torch.bfloat16, torch.float16]


def trained(
    folder: Path,
    *,
    lora: bool,
    architecture: Architecture = "llama",
    dtype: torch.dtype = torch.float32,
    precision: Precision = "Float32",
    new: bool = True,
) -> tuple[LoadedModel, Mapping[str, torch.Tensor], Prepared]:
    if new:
        make_model(folder, architecture=architecture, dtype=dtype)
    loaded = load_model(folder, device=CPU, precision=precision)
    prepared = make_prepared(loaded.tokenizer)
    if lora:
        loaded = add_lora(loaded, LoRA(rank=4), seed=1)
    outcome = train(
        loaded,
        prepared,
        Hyperparameters(method="Full", epochs=2, batch_size=16, learning_rate="2e-2", seed=7),
    )
    return loaded, outcome.weights, prepared


@pytest.mark.parametrize(
    ("architecture", "lora"),
    [(a, lora) for a in ARCHITECTURES for lora in (False, True) if (a, lora) != ("mamba", True)],
)
def test_the_exported_model_is_the_trained_one(tmp_path: Path, architecture: Architecture, lora: bool) -> None:
    loaded, weights, prepared = trained(tmp_path / "base", lora=lora, architecture=architecture)
    inside = evaluate(loaded, prepared.parts["test"], prepared, texts=(), generate=False)
    exported = export(loaded, weights, prepared, tmp_path / "out", kind="Model", base_name="s3://models/base/")
    again = reload_and_compare(exported)
    outside = evaluate(again, prepared.parts["test"], prepared, texts=(), generate=False)
    assert outside.loss == pytest.approx(inside.loss, rel=1e-4 if lora else 1e-12)
    assert [r.chosen for r in outside.rows] == [r.chosen for r in inside.rows]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["model"]


@pytest.mark.parametrize("precision", ["Float32", "BFloat16"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("lora", [False, True])
def test_an_export_keeps_the_type_of_the_base_and_verifies_in_every_precision(
    tmp_path: Path, dtype: torch.dtype, precision: Precision, lora: bool
) -> None:
    loaded, weights, prepared = trained(tmp_path / "base", lora=lora, dtype=dtype, precision=precision)
    exported = export(
        loaded, weights, prepared, tmp_path / "out", kind="Both" if lora else "Model", base_name="s3://models/base/"
    )
    stored = load_file(tmp_path / "out" / "model" / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {dtype}
    assert set(stored) == set(load_file(tmp_path / "base" / "model.safetensors"))
    reload_and_compare(exported)


def test_a_float32_model_trained_in_bfloat16_is_stored_with_its_master_weights(tmp_path: Path) -> None:
    loaded, weights, prepared = trained(tmp_path / "base", lora=False, precision="BFloat16")
    export(loaded, weights, prepared, tmp_path / "out", kind="Model", base_name="base")
    weight = load_file(tmp_path / "out" / "model" / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    assert float((weight != weight.bfloat16().float()).float().mean()) > 0.9


@pytest.mark.parametrize("architecture", ["llama", "llama-untied"])
@pytest.mark.parametrize("lora", [False, True])
def test_plain_transformers_loads_the_model_and_ties_are_kept(
    tmp_path: Path, architecture: Architecture, lora: bool
) -> None:
    loaded, weights, prepared = trained(tmp_path / "base", lora=lora, architecture=architecture)
    loaded.model.eval()
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        expected = loaded.model(ids).logits
    export(loaded, weights, prepared, tmp_path / "out", kind="Model", base_name="base")
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model")
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-4)
    tied = model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert tied == (architecture == "llama")
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "out" / "model")
    assert tokenizer.chat_template == loaded.tokenizer.chat_template
    assert tokenizer("The film was great")["input_ids"] == loaded.tokenizer("The film was great")["input_ids"]


@pytest.mark.parametrize("lora", [False, True])
def test_config_and_tokenizer_are_taken_over_byte_for_byte(tmp_path: Path, lora: bool) -> None:
    loaded, weights, prepared = trained(tmp_path / "base", lora=lora)
    (tmp_path / "base" / "LICENSE").write_text("be nice")
    (tmp_path / "base" / "run_me.py").write_text("raise SystemExit")
    export(loaded, weights, prepared, tmp_path / "out", kind="Model", base_name="base")
    model = tmp_path / "out" / "model"
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "LICENSE"):
        assert (model / name).read_bytes() == (tmp_path / "base" / name).read_bytes()
    assert not list(model.glob("*.py"))


@pytest.mark.parametrize("kind", ["Model", "Both"])
def test_code_that_the_base_names_is_not_named_by_what_is_exported(tmp_path: Path, kind: ExportKind) -> None:
    make_model(tmp_path / "base")
    own = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model", "AutoTokenizer": ["own.Tokenizer", None]}
    kept = {}
    for name in ("config.json", "tokenizer_config.json"):
        path = tmp_path / "base" / name
        kept[name] = json.loads(path.read_text())
        path.write_text(json.dumps({**kept[name], "auto_map": own}))
    loaded, weights, prepared = trained(tmp_path / "base", lora=kind == "Both", new=False)
    export(loaded, weights, prepared, tmp_path / "out", kind=kind, base_name="base")
    for folder in (tmp_path / "out").iterdir():
        for name in kept.keys() & {path.name for path in folder.iterdir()}:
            assert json.loads((folder / name).read_text()) == kept[name]
    assert (tmp_path / "out/model/config.json").exists()
    assert "auto_map" in (tmp_path / "base/config.json").read_text()


def test_a_base_without_generation_config_gets_the_settings_of_the_scores(tmp_path: Path) -> None:
    make_model(tmp_path / "base")
    (tmp_path / "base" / "generation_config.json").unlink(missing_ok=True)
    loaded, weights, prepared = trained(tmp_path / "base", lora=False, new=False)
    export(loaded, weights, prepared, tmp_path / "out", kind="Model", base_name="base")
    settings = json.loads((tmp_path / "out" / "model" / "generation_config.json").read_text())
    assert settings == {
        "bos_token_id": 2,
        "do_sample": False,
        "eos_token_id": [1],
        "max_new_tokens": prepared.max_new_tokens,
        "pad_token_id": 0,
    }


@pytest.mark.parametrize("lora", [False, True])
def test_a_model_that_learned_to_stop_stops_under_plain_generate(tmp_path: Path, lora: bool) -> None:
    make_model(tmp_path / "base")
    file = tmp_path / "base" / "generation_config.json"
    file.write_text('{"max_length": 30, "eos_token_id": []}')
    loaded, weights, prepared = trained(tmp_path / "base", lora=lora, new=False)
    export(loaded, weights, prepared, tmp_path / "out", kind="Model", base_name="base")
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model")
    assert model.generation_config.eos_token_id == [prepared.end_ids[-1]]
    assert model.generation_config.max_new_tokens == prepared.max_new_tokens


@pytest.mark.parametrize(("kind", "folders"), [("Adapter", ["adapter"]), ("Both", ["adapter", "model"])])
def test_the_adapter_is_one_that_peft_loads(tmp_path: Path, kind: ExportKind, folders: list[str]) -> None:
    loaded, weights, prepared = trained(tmp_path / "base", lora=True)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        expected = loaded.model(ids).logits
    exported = export(loaded, weights, prepared, tmp_path / "out", kind=kind, base_name="org/base")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == folders
    base: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model = PeftModel.from_pretrained(base, tmp_path / "out" / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, expected, rtol=1e-5, atol=1e-5)
    config = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "org/base"
    assert config["r"] == 4
    stored = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.float32}
    assert all("lora_" in name for name in stored)
    reload_and_compare(exported)


def test_files_that_were_stored_and_fetched_are_what_is_checked(tmp_path: Path) -> None:
    loaded, weights, prepared = trained(tmp_path / "base", lora=False)
    exported = export(loaded, weights, prepared, tmp_path / "out", kind="Model", base_name="base")
    (tmp_path / "out").rename(tmp_path / "fetched")
    again = reload_and_compare(exported, folder=tmp_path / "fetched")
    assert again.folder == tmp_path / "fetched" / "model"


@pytest.mark.parametrize("kind", ["Model", "Adapter"])
def test_a_changed_weight_is_found(tmp_path: Path, kind: ExportKind) -> None:
    loaded, weights, prepared = trained(tmp_path / "base", lora=kind == "Adapter")
    exported = export(loaded, weights, prepared, tmp_path / "out", kind=kind, base_name="base")
    file = next((tmp_path / "out").rglob("*.safetensors"))
    stored = load_file(file)
    name = sorted(stored)[-2]
    stored[name] = stored[name] * 1.001
    save_file(stored, file, metadata={"format": "pt"})
    with pytest.raises(StageError, match="answers differently") as error:
        reload_and_compare(exported)
    assert error.value.reason is Reason.VERIFICATION_FAILED


def test_a_merge_that_changes_the_model_is_found(tmp_path: Path) -> None:
    loaded, weights, prepared = trained(tmp_path / "base", lora=True)
    exported = export(loaded, weights, prepared, tmp_path / "out", kind="Model", base_name="base")
    base = load_file(tmp_path / "base" / "model.safetensors")
    save_file(base, tmp_path / "out" / "model" / "model.safetensors", metadata={"format": "pt"})  # as if not merged
    with pytest.raises(StageError, match="answers differently"):
        reload_and_compare(exported)


def test_adapters_that_are_not_the_trained_ones_are_found_before_they_are_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, weights, prepared = trained(tmp_path / "base", lora=True)
    write = export_module.write_adapter

    def damaged(loaded: LoadedModel, trained: Mapping[str, torch.Tensor], folder: Path, **names: Any) -> None:
        write(loaded, trained, folder, **names)
        stored = load_file(folder / "adapter_model.safetensors")
        save_file({name: tensor * 1.01 for name, tensor in stored.items()}, folder / "adapter_model.safetensors")

    monkeypatch.setattr(export_module, "write_adapter", damaged)
    with pytest.raises(StageError, match="answers differently"):
        export(loaded, weights, prepared, tmp_path / "out", kind="Model", base_name="base")


def test_a_merge_that_leaves_the_adapters_out_is_found_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, weights, prepared = trained(tmp_path / "base", lora=True)
    monkeypatch.setattr(PeftModel, "merge_and_unload", lambda self, **_: self.unload(), raising=False)
    with pytest.raises(StageError, match="answers differently"):
        export(loaded, weights, prepared, tmp_path / "out", kind="Model", base_name="base")
    assert not (tmp_path / "out" / "model").exists()


def test_rounding_the_merge_is_measured_and_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loaded, weights, prepared = trained(tmp_path / "base", lora=True, dtype=torch.float16)
    # As if almost every digit were rounded away: what then is stored is verified, and the loss that it costs is told.
    loaded = dataclasses.replace(loaded, stored_dtype=torch.float8_e5m2)
    with caplog.at_level("WARNING"):
        export(loaded, weights, prepared, tmp_path / "out", kind="Model", base_name="base")
    assert "rounding the merged weights to float8_e5m2 changes the loss" in caplog.text


def outcome(marks: str, loss: float) -> Evaluation:
    from tests.unit.trainer.evaluation.test_results import row

    rows = tuple(row(i, correct=mark == "x", loss=loss) for i, mark in enumerate(marks))
    return Evaluation(metric="ExactMatch", rows=rows, seconds=1.0)


@pytest.mark.parametrize(
    ("again", "merged", "same"),
    [
        (outcome("xx..", 1.0), False, True),
        (outcome("xx..", 1.0 + 1e-9), False, False),
        (outcome("xx..", 1.009), True, True),
        (outcome("xx..", 0.991), True, True),
        (outcome("xx..", 1.011), True, False),
        (outcome("x...", 1.0), True, True),
        (outcome("....", 1.0), True, False),
        (outcome("x.x.", 1.0), True, False),
    ],
)
def test_equal_to_the_bit_or_within_a_per_cent_and_a_row_after_merging(
    again: Evaluation, merged: bool, same: bool
) -> None:
    reference = outcome("xx..", 1.0)
    if same:
        compare(reference, again, rows="4 validation rows", merged=merged)
    else:
        with pytest.raises(StageError, match="instead of 1"):
            compare(reference, again, rows="4 validation rows", merged=merged)
