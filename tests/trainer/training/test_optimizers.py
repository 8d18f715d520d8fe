"""The optimizers against the library's own, and what weight decay leaves alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import nn

from finetune_api.job import LoRA
from finetune_trainer.model.lora import add_lora
from finetune_trainer.training.loop import train
from finetune_trainer.training.optimizer import MasterAdafactor, MasterAdamW, MasterOptimizer, decaying
from tests.support.tiny_model import make_model, make_prepared
from tests.support.train_kit import FULL, load

SHAPES = {"matrix": (7, 5), "vector": (6,), "experts": (3, 4, 5), "zero": (4, 3)}


def weights(seed: int = 0) -> dict[str, nn.Parameter]:
    torch.manual_seed(seed)
    values = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    values["zero"].zero_()  # as adapters start
    return {name: nn.Parameter(value) for name, value in values.items()}


def run(kind: type[MasterOptimizer], *, decay: float, steps: int = 30) -> tuple[dict[str, nn.Parameter], ...]:
    """Step ours and the library's by the same gradients."""
    ours, theirs = weights(), weights()
    mine = kind(ours, weight_decay=decay, decayed=set(ours))
    rate = 1e-2 if kind is MasterAdamW else 5e-2
    library: torch.optim.Optimizer
    if kind is MasterAdamW:
        library = torch.optim.AdamW(theirs.values(), lr=rate, weight_decay=decay)
    else:
        library = torch.optim.Adafactor(theirs.values(), lr=rate, weight_decay=decay)
    for step in range(steps):
        torch.manual_seed(1000 + step)
        for name, shape in SHAPES.items():
            gradient = torch.randn(shape) * 10.0 ** (step % 3 - 1)
            ours[name].grad, theirs[name].grad = gradient.clone(), gradient.clone()
        mine.collect()
        norm = mine.step(rate, max_norm=1.0)
        assert float(norm) == pytest.approx(float(nn.utils.clip_grad_norm_(list(theirs.values()), 1.0)), rel=1e-5)
        library.step()
    return ours, theirs


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("kind", [MasterAdamW, MasterAdafactor])
def test_thirty_steps_end_where_the_librarys_optimizer_does(kind: type[MasterOptimizer], decay: float) -> None:
    ours, theirs = run(kind, decay=decay)
    start = weights()
    for name, parameter in ours.items():
        torch.testing.assert_close(parameter, theirs[name], rtol=2e-5, atol=1e-7)
        assert not torch.equal(parameter, start[name])


def test_adafactor_remembers_rows_and_columns_of_a_matrix_only() -> None:
    ours = weights()
    optimizer = MasterAdafactor(ours)
    for parameter in ours.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.collect()
    optimizer.step(1e-2, max_norm=1.0)
    moments = optimizer.state().moments
    assert {name: tuple(t.shape) for name, t in moments["row_var"].items()} == {
        "matrix": (7, 1),
        "experts": (3, 4, 1),
        "zero": (4, 1),
    }
    assert {name: tuple(t.shape) for name, t in moments["variance"].items()} == {"vector": (6,)}


def test_a_state_of_another_optimizer_is_refused_before_anything_is_changed() -> None:
    adam, factored = MasterAdamW(weights()), MasterAdafactor(weights(1))
    for optimizer, parameters in ((adam, adam._weights), (factored, factored._weights)):
        for weight in parameters.values():
            weight.parameter.grad = torch.ones_like(weight.data)
        optimizer.collect()
        optimizer.step(1e-2, max_norm=1.0)
    before = factored.state()
    with pytest.raises(ValueError, match="another optimizer"):
        factored.restore(adam.state())
    assert all(torch.equal(before.masters[name], master) for name, master in factored.state().masters.items())


@pytest.mark.parametrize(("max_norm", "length"), [(1.0, 1.0), (0.5, 0.5), (0.0, 5.0), (100.0, 5.0)])
def test_gradients_are_cut_to_the_norm_and_zero_never_cuts(max_norm: float, length: float) -> None:
    seen: list[torch.Tensor] = []

    class Looking(MasterAdamW):
        def _update(self, weights, scale, **about):  # type: ignore[no-untyped-def]
            seen.append(scale)
            super()._update(weights, scale, **about)

    parameter = nn.Parameter(torch.zeros(2))
    optimizer = Looking({"w": parameter})
    parameter.grad = torch.tensor([3.0, 4.0])
    optimizer.collect()
    assert float(optimizer.step(0.1, max_norm=max_norm)) == 5.0
    assert 5.0 * float(seen[0]) == pytest.approx(length, rel=1e-5)


class Block(nn.Module):
    """All that a block may hold: a linear layer with bias, norms, an embedding, and experts with biases in a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.embed = nn.Embedding(5, 4)
        self.experts = nn.Module()
        self.experts.up_proj = nn.Parameter(torch.zeros(2, 4, 4))
        self.experts.up_proj_bias = nn.Parameter(torch.zeros(2, 4))


def test_weight_decay_is_never_for_norms_and_biases() -> None:
    assert decaying(Block()) == {"linear.weight", "embed.weight", "experts.up_proj"}


@pytest.mark.parametrize("method", ["Full", "LoRA"])
def test_a_decay_shrinks_what_it_is_for_and_no_norm(tmp_path: Path, method: Literal["Full", "LoRA"]) -> None:
    make_model(tmp_path)
    ended = []
    for decay in ("0", "1"):
        loaded = load(tmp_path)
        lora = LoRA(rank=4) if method == "LoRA" else None
        if lora:
            loaded = add_lora(loaded, lora, seed=1)
        # So small a rate that what decays is seen and what is learnt is not.
        how = dataclasses.replace(
            FULL, method=method, lora=lora, weight_decay=decay, learning_rate="1e-3", epochs=1, scheduler="Constant"
        )
        outcome = train(loaded, make_prepared(loaded.tokenizer), how)
        ended.append(outcome.weights)
    kept, shrunk = ended
    smaller = {name for name in kept if float(shrunk[name].norm()) < float(kept[name].norm()) * (1 - 1e-3)}
    assert not [name for name in smaller if "norm" in name or "bias" in name]
    if method == "LoRA":
        assert {name for name in kept if "lora_A" in name} <= smaller
    else:
        assert {name for name in kept if name.endswith("_proj.weight")} <= smaller
