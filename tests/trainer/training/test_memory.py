"""What training keeps in memory is no more than it needs, and the arithmetic is the same as if it kept all of it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from typing_extensions import override

from finetune_trainer.training import loss as loss_module
from finetune_trainer.training import masters
from finetune_trainer.training import optimizer as module
from finetune_trainer.training.loss import summed_cross_entropy
from finetune_trainer.training.optimizer import MasterAdamW


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes while it is active, in bytes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in torch
        self.bytes = 0

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given, made = storages((args, kwargs)), storages(result)
        self.bytes = max(self.bytes, *(size for place, size in made.items() if place not in given), 0)
        return result


def storages(tree: Any) -> dict[int, int]:
    """Address and bytes of the memory behind tensors; views share theirs."""
    found = [t.untyped_storage() for t in tree_iter(tree) if isinstance(t, torch.Tensor)]
    return {storage.data_ptr(): storage.nbytes() for storage in found}


def number(bits: int) -> torch.Tensor:
    return torch.tensor([bits], dtype=torch.int64).to(torch.int32).view(torch.float32)


def stored(value: torch.Tensor) -> tuple[torch.nn.Parameter, torch.Tensor]:
    """The weight and the master after a master was stored and read back."""
    weight = torch.nn.Parameter(torch.zeros_like(value, dtype=torch.bfloat16))
    optimizer = MasterAdamW({"w": weight})
    state = optimizer.state()
    optimizer.restore(module.OptimizerState(masters={"w": value}, moments={}, steps=state.steps))
    return weight, optimizer.state().masters["w"]


def test_a_master_is_whole_though_only_half_of_it_is_kept_beside_its_weight() -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(100_000, generator=generator) * 10 ** torch.randn(100_000, generator=generator)
    values = torch.cat([values, -values, torch.tensor([0.0, -0.0, 1e-40, 3e38])])
    values = values[(values.view(torch.int32) & 0xFFFF) != 0x8000]
    weight, master = stored(values)
    assert torch.equal(weight.detach(), values.bfloat16())
    assert torch.equal(master.view(torch.int32), values.view(torch.int32))


@pytest.mark.parametrize("sign", [0, 0x80000000])
@pytest.mark.parametrize("upper", [0x3F80, 0x3F81])
def test_a_master_between_two_weights_rounds_as_ever_and_loses_a_unit_at_most(sign: int, upper: int) -> None:
    value = number(sign | upper << 16 | 0x8000)
    weight, master = stored(value)
    assert torch.equal(weight.detach(), value.bfloat16())
    assert abs(int(master.view(torch.int32)) - int(value.view(torch.int32))) <= 1
    assert torch.equal(stored(master)[1], master)  # from then on no bit changes


def run(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype, steps: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    weights = {n: torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for n, s in shapes.items()}
    optimizer = MasterAdamW(weights)
    for _ in range(steps):
        for weight in weights.values():
            weight.grad = torch.randn(weight.shape, generator=generator).to(dtype)
        optimizer.collect()
        optimizer.step(0.01, max_norm=1.0)
    return dict(optimizer.state().masters)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pieces_of_the_weights_step_as_the_whole_does(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {"long": (50, 7), "short": (3,), "other": (40,), "number": ()}
    whole = run(shapes, dtype)
    monkeypatch.setattr(masters, "PIECE", 64)
    for name, master in run(shapes, dtype).items():
        torch.testing.assert_close(master, whole[name], rtol=1e-6, atol=1e-7)


def test_short_weights_learn_what_adamw_makes_of_long_ones() -> None:
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(300, generator=generator).bfloat16()
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.float())
    optimizer, reference = MasterAdamW({"w": ours}), torch.optim.AdamW([theirs], lr=1e-4, weight_decay=0.0)
    for _ in range(20):  # each step too small for most of the short weights
        gradient = torch.randn(300, generator=generator).bfloat16()
        ours.grad, theirs.grad = gradient.clone(), gradient.float()
        optimizer.collect()
        optimizer.step(1e-4, max_norm=1e9)
        reference.step()
    torch.testing.assert_close(optimizer.state().masters["w"], theirs.detach(), rtol=1e-6, atol=1e-7)
    assert torch.equal(ours, optimizer.state().masters["w"].bfloat16())


def test_a_step_makes_no_copy_of_a_long_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masters, "PIECE", 100)
    weight = torch.nn.Parameter(torch.ones(10_000, dtype=torch.bfloat16))
    optimizer = MasterAdamW({"w": weight})
    for _ in range(2):  # the first makes the moments
        weight.grad = torch.ones_like(weight)
        optimizer.collect()
        with Largest() as largest:
            optimizer.step(0.1, max_norm=1.0)
    assert largest.bytes <= 1000


def test_gradients_are_taken_while_the_backward_pass_goes_on() -> None:
    layers = torch.nn.Sequential(*(torch.nn.Linear(4, 4, bias=False, dtype=torch.bfloat16) for _ in range(3)))
    optimizer = MasterAdamW(dict(layers.named_parameters()))
    standing: list[int] = []
    for layer in layers:
        layer.register_full_backward_hook(
            lambda *_: standing.append(sum(p.grad is not None for p in layers.parameters()))
        )
    inputs = torch.ones(2, 4, dtype=torch.bfloat16, requires_grad=True)
    with optimizer.collecting():
        layers(inputs).sum().backward()
    assert standing == [0, 0, 0]
    assert set(optimizer.gradients) == {"0.weight", "1.weight", "2.weight"}
    layers(inputs).sum().backward()  # nobody collects any more
    assert all(p.grad is not None for p in layers.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("at_once", [1, 150, 10**6])
def test_loss_and_gradient_are_those_of_the_whole(
    dtype: torch.dtype, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_module, "NUMBERS_AT_ONCE", {"cpu": at_once})
    generator = torch.Generator().manual_seed(4)
    logits = (torch.randn(7, 50, generator=generator) * 5).to(dtype).requires_grad_()
    targets = torch.randint(50, (7,), generator=generator)
    targets[2] = logits[2].argmax()
    loss, right = summed_cross_entropy(logits, targets)
    (gradient,) = torch.autograd.grad(loss / 3, logits)
    expected = functional.cross_entropy(logits.float(), targets, reduction="sum")
    (whole,) = torch.autograd.grad(expected / 3, logits)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(gradient, whole, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)
    assert int(right) == int((logits.argmax(-1) == targets).sum()) >= 1


def test_the_loss_holds_nothing_in_32_bits_that_is_as_large_as_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "NUMBERS_AT_ONCE", {"cpu": 1000})
    logits = torch.randn(64, 500).bfloat16().requires_grad_()
    with Largest() as largest:
        loss, _ = summed_cross_entropy(logits, torch.arange(64))
        loss.backward()
    assert largest.bytes == 64 * 500 * 2  # the gradient


def test_a_loss_that_is_no_number_stays_one() -> None:
    for value, other in itertools.permutations((float("inf"), float("nan"), 0.0), 2):
        loss, _ = summed_cross_entropy(torch.tensor([[value, other, 1.0]]), torch.tensor([2]))
        whole = functional.cross_entropy(torch.tensor([[value, other, 1.0]]), torch.tensor([2]))
        assert torch.isfinite(loss) == torch.isfinite(whole)
