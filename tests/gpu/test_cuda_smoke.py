"""The trainer on a CUDA device against the trainer on the CPU: same losses, same choices, same exported model."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from finetune_api.job import LoRA
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.model.device import Precision, peak_memory_bytes, pick_device, resolve_precision
from finetune_trainer.model.load import LoadedModel, load_model
from finetune_trainer.model.lora import add_lora
from finetune_trainer.output.export import export, reload_and_compare
from finetune_trainer.training.loop import train
from finetune_trainer.training.outcome import TrainOutcome
from finetune_trainer.training.plan import Hyperparameters
from tests.support.tiny_model import Architecture, make_model, make_prepared

CPU = torch.device("cpu")
HOW = Hyperparameters(method="Full", epochs=3, batch_size=16, learning_rate="1e-2", seed=7)


def run(
    folder: Path, device: torch.device, *, lora: bool = False, precision: Precision = "Float32"
) -> tuple[LoadedModel, TrainOutcome]:
    loaded = load_model(folder, device=device, precision=precision)
    if lora:
        loaded = add_lora(loaded, LoRA(rank=8), seed=1)
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:  # drawn on the CPU, so that both devices start alike
                generator = torch.Generator().manual_seed(parameter.numel())
                start = torch.empty(parameter.shape).uniform_(-0.05, 0.05, generator=generator)
                parameter.data.copy_(start)
    return loaded, train(loaded, make_prepared(loaded.tokenizer), HOW)


def test_there_is_a_gpu_and_auto_is_bfloat16_on_it() -> None:
    device = pick_device(1)
    assert device.type == "cuda"
    assert resolve_precision("Auto", device) == "BFloat16"


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2", "mistral"])
@pytest.mark.parametrize("lora", [False, True])
def test_losses_on_the_gpu_are_those_on_the_cpu(tmp_path: Path, architecture: Architecture, lora: bool) -> None:
    make_model(tmp_path, architecture=architecture)
    _, on_cpu = run(tmp_path, CPU, lora=lora)
    _, on_gpu = run(tmp_path, pick_device(1), lora=lora)
    assert on_gpu.losses[0] == pytest.approx(on_cpu.losses[0], rel=1e-4)
    assert list(on_gpu.losses) == pytest.approx(list(on_cpu.losses), rel=2e-2)
    assert len(on_gpu.losses) == 12  # the log interval of a GPU is longer than an epoch here


@pytest.mark.parametrize("lora", [False, True])
def test_bfloat16_on_the_gpu_learns(tmp_path: Path, lora: bool) -> None:
    make_model(tmp_path)
    _, exact = run(tmp_path, CPU, lora=lora)
    _, short = run(tmp_path, pick_device(1), lora=lora, precision="BFloat16")
    assert short.losses[0] == pytest.approx(exact.losses[0], rel=0.02)
    assert short.losses[-1] == pytest.approx(exact.losses[-1], rel=0.2)


def test_moments_of_a_byte_each_learn_on_the_gpu_as_they_do_on_the_cpu(tmp_path: Path) -> None:
    make_model(tmp_path)
    losses = []
    for device in (CPU, pick_device(1)):
        loaded = load_model(tmp_path, device=device, precision="Float32")
        how = dataclasses.replace(HOW, optimizer="AdamW8bit")
        losses.append(list(train(loaded, make_prepared(loaded.tokenizer), how).losses))
    assert losses[1] == pytest.approx(losses[0], rel=5e-2)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "mistral"])
def test_choices_and_texts_on_the_gpu_are_those_on_the_cpu(tmp_path: Path, architecture: Architecture) -> None:
    make_model(tmp_path, architecture=architecture)
    scored = []
    for device in (CPU, pick_device(1)):
        loaded = load_model(tmp_path, device=device, precision="Float32")
        prepared = make_prepared(loaded.tokenizer)
        scored.append(evaluate(loaded, prepared.parts["test"], prepared, texts=prepared.texts["test"], generate=True))
    on_cpu, on_gpu = scored
    assert [r.chosen for r in on_gpu.rows] == [r.chosen for r in on_cpu.rows]
    assert [r.generated for r in on_gpu.rows] == [r.generated for r in on_cpu.rows]
    assert on_gpu.loss == pytest.approx(on_cpu.loss, rel=1e-4)


@pytest.mark.parametrize("precision", ["Float32", "BFloat16"])
@pytest.mark.parametrize("lora", [False, True])
def test_an_export_from_the_gpu_verifies(tmp_path: Path, lora: bool, precision: Precision) -> None:
    make_model(tmp_path / "base", dtype=torch.bfloat16)
    loaded, outcome = run(tmp_path / "base", pick_device(1), lora=lora, precision=precision)
    prepared = make_prepared(loaded.tokenizer)
    exported = export(
        loaded, outcome.weights, prepared, tmp_path / "out", kind="Both" if lora else "Model", base_name="base"
    )
    again = reload_and_compare(exported)
    assert again.device.type == "cuda"
    assert all(math.isfinite(loss) for loss in outcome.losses)
    assert 0 < peak_memory_bytes(again.device) < 2**34


def test_a_model_that_does_not_fit_is_gpu_out_of_memory(tmp_path: Path) -> None:
    make_model(tmp_path, vocab_size=65536)
    loaded = load_model(tmp_path, device=pick_device(1), precision="Float32")
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.0)  # what is allocated stays, and nothing comes to it
    try:
        with pytest.raises(StageError, match="during training") as error:
            train(loaded, make_prepared(loaded.tokenizer), HOW)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert error.value.reason is Reason.GPU_OUT_OF_MEMORY
    assert error.value.exit_code == 22
