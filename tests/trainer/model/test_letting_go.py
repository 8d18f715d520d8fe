"""A model that nobody holds is gone at once: its memory is needed for the next one."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from finetune_api.job import LoRA
from finetune_trainer.evaluation.abilities import try_out
from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.model.load import load_model
from finetune_trainer.model.lora import add_lora
from finetune_trainer.output.export import export, reload_and_compare
from finetune_trainer.training.loop import train
from finetune_trainer.training.plan import Hyperparameters
from tests.support.tiny_model import ARCHITECTURES, Architecture, make_model, make_prepared

CPU = torch.device("cpu")


@pytest.fixture
def no_cycles_are_collected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive(watched: list[weakref.ref[torch.nn.Module]], weights: list[weakref.ref[torch.Tensor]]) -> tuple[int, int]:
    return sum(ref() is not None for ref in watched), sum(ref() is not None for ref in weights)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a != "mamba"])  # it goes with the next collection
@pytest.mark.usefixtures("no_cycles_are_collected")
def test_a_model_that_was_scored_and_trained_goes_with_the_last_name_for_it(
    tmp_path: Path, architecture: Architecture, lora: bool
) -> None:
    make_model(tmp_path, architecture=architecture)
    loaded = try_out(load_model(tmp_path, device=CPU, precision="Float32"))
    prepared = make_prepared(loaded.tokenizer, choices=None)
    if lora:
        loaded = add_lora(loaded, LoRA(rank=4), seed=1)
    train(loaded, prepared, Hyperparameters(method="Full", epochs=1, batch_size=16, learning_rate="1e-2", seed=7))
    evaluate(loaded, prepared.parts["test"], prepared, texts=prepared.texts["test"], generate=True)
    modules = [weakref.ref(module) for module in loaded.model.modules()]
    weights = [weakref.ref(weight) for weight in loaded.model.parameters()]
    assert alive(modules, weights) == (len(modules), len(weights))
    del loaded
    assert alive(modules, weights) == (0, 0)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.usefixtures("no_cycles_are_collected")
def test_no_model_of_an_export_outlives_it(tmp_path: Path, lora: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model(tmp_path / "base")
    made: list[weakref.ref[torch.nn.Module]] = []
    most = 0
    original = torch.nn.Module.to

    def counted(module: torch.nn.Module, *args: Any, **more: Any) -> torch.nn.Module:
        """Each load ends with this call."""
        nonlocal most
        if isinstance(module, PreTrainedModel):
            made.append(weakref.ref(module))
            most = max(most, sum(ref() is not None for ref in made))
        return original(module, *args, **more)

    monkeypatch.setattr(torch.nn.Module, "to", counted)
    loaded = load_model(tmp_path / "base", device=CPU, precision="Float32")
    prepared = make_prepared(loaded.tokenizer)
    if lora:
        loaded = add_lora(loaded, LoRA(rank=4), seed=1)
    how = Hyperparameters(method="Full", epochs=1, batch_size=16, learning_rate="1e-2", seed=7)
    outcome = train(loaded, prepared, how)
    exported = export(loaded, outcome.weights, prepared, tmp_path / "out", kind="Model", base_name="base")
    del loaded
    assert [ref() for ref in made if ref() is not None] == []
    again = reload_and_compare(exported)
    assert [ref() for ref in made if ref() is not None] == [again.model]
    assert most <= 2  # the trained one, and the base that its adapters are merged into
