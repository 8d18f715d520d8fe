"""AdamW with moments of a byte each: as near to AdamW as its bytes allow, and as short as it says."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from finetune_trainer.training.eight_bits import BLOCK, SMALLEST, MasterAdamW8bit, dequantized, quantized
from finetune_trainer.training.loop import train
from finetune_trainer.training.masters import PIECE
from finetune_trainer.training.optimizer import MasterAdamW, MasterOptimizer
from tests.support.tiny_model import make_model, make_prepared
from tests.support.train_kit import FULL, load

SHAPES = {"matrix": (96, 100), "turned": (70, 80), "vector": (60,)}


def weights(dtype: torch.dtype = torch.float32) -> dict[str, nn.Parameter]:
    torch.manual_seed(0)
    values = {name: torch.randn(shape).to(dtype) for name, shape in SHAPES.items()}
    values["turned"] = values["turned"].T  # its numbers lie in another order in memory
    return {name: nn.Parameter(value) for name, value in values.items()}


def stepped(kind: type[MasterOptimizer], *, steps: int, dtype: torch.dtype = torch.float32) -> MasterOptimizer:
    optimizer = kind(parameters := weights(dtype))
    for step in range(steps):
        torch.manual_seed(1000 + step)
        for parameter in parameters.values():
            parameter.grad = torch.randn(parameter.shape).to(dtype) + 0.5
        optimizer.collect()
        optimizer.step(1e-2, max_norm=0.0)
    return optimizer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_thirty_steps_end_near_those_with_long_moments(dtype: torch.dtype) -> None:
    start = {name: value.detach().float() for name, value in weights(dtype).items()}
    short = stepped(MasterAdamW8bit, steps=30, dtype=dtype).state().masters
    long = stepped(MasterAdamW, steps=30, dtype=dtype).state().masters
    for name in ("matrix", "turned"):
        way = (long[name] - start[name]).norm()
        assert 0 < (short[name] - long[name]).norm() < 0.03 * way
    assert torch.equal(short["vector"], long["vector"])


def test_the_first_step_is_that_of_long_moments_since_nothing_is_remembered_yet() -> None:
    short, long = (stepped(kind, steps=1).state().masters for kind in (MasterAdamW8bit, MasterAdamW))
    assert all(torch.equal(short[name], long[name]) for name in SHAPES)


def test_a_large_weight_is_remembered_in_two_bytes_a_number_and_a_small_one_in_eight() -> None:
    moments = stepped(MasterAdamW8bit, steps=2).state().moments
    for kind in ("exp_avg", "exp_avg_sq"):
        assert moments[kind]["matrix"].dtype == torch.uint8
        assert moments[kind]["matrix"].numel() == 9600
        assert moments[kind + "_scale"]["matrix"].numel() == 38  # blocks of 256, the last one not full
        assert moments[kind]["vector"].dtype == torch.float32
        assert "vector" not in moments[kind + "_scale"]


def test_a_weight_is_cut_into_pieces_without_a_change_of_the_outcome() -> None:
    """The numbers of the second piece are those that they are on their own."""
    torch.manual_seed(0)
    value, gradient = torch.randn(PIECE + 5000), torch.randn(PIECE + 5000)
    whole, part = nn.Parameter(value.clone()), nn.Parameter(value[PIECE:].clone())
    for parameter, wanted in ((whole, gradient), (part, gradient[PIECE:])):
        optimizer = MasterAdamW8bit({"w": parameter})
        for _ in range(3):
            parameter.grad = wanted.clone()
            optimizer.collect()
            optimizer.step(1e-2, max_norm=0.0)
    assert torch.equal(whole[PIECE:], part)


@pytest.mark.parametrize("signed", [True, False])
def test_a_byte_is_the_nearest_of_its_values(signed: bool) -> None:
    torch.manual_seed(1)
    values = torch.randn(10 * BLOCK) * torch.logspace(-6, 3, 10).repeat_interleave(BLOCK)
    values = values if signed else values.abs()
    codes, scales = quantized(values, signed=signed)
    largest = values.view(10, BLOCK).abs().amax(dim=1)
    assert torch.equal(scales, largest)
    wrong = (dequantized(codes, scales, signed=signed) - values).abs() / largest.repeat_interleave(BLOCK)
    # The widest gap of the table is that of its uppermost power of ten: 0.9 in 64 or 128 parts.
    assert float(wrong.max()) <= 0.9 / (64 if signed else 128) / 2 + 1e-6
    every = dequantized(torch.arange(256, dtype=torch.uint8), torch.ones(1), signed=signed)
    assert len(set(every.tolist())) == 256
    again, _ = quantized(every, signed=signed)
    assert torch.equal(again, torch.arange(256, dtype=torch.uint8))
    positive = every[every > 0]
    assert float(positive.min()) == pytest.approx(0.55e-6 if signed else 0.325e-6)
    assert float(every.max()) == 1


def test_a_second_moment_above_zero_never_becomes_zero() -> None:
    values = torch.tensor([1.0, 1e-20, 0.0] + [0.5] * 300)
    back = dequantized(*quantized(values, signed=False), signed=False)
    assert 0 < float(back[1]) < 1e-6
    assert float(back[2]) == 0


def test_zeros_stay_zeros() -> None:
    codes, scales = quantized(torch.zeros(300), signed=True)
    assert float(dequantized(codes, scales, signed=True).abs().max()) == 0


def test_a_state_with_long_moments_is_refused() -> None:
    short, long = (stepped(kind, steps=1) for kind in (MasterAdamW8bit, MasterAdamW))
    for one, other in ((short, long), (long, short)):
        with pytest.raises(ValueError, match="another optimizer"):
            one.restore(other.state())


def test_a_training_with_it_learns_as_one_with_long_moments_does(tmp_path: Path) -> None:
    make_model(tmp_path)
    losses = {}
    for optimizer in ("AdamW", "AdamW8bit"):
        loaded = load(tmp_path)
        assert sum(p.numel() >= SMALLEST for p in loaded.model.parameters()) > 0
        how = dataclasses.replace(FULL, optimizer=optimizer)
        losses[optimizer] = train(loaded, make_prepared(loaded.tokenizer), how).losses
    assert losses["AdamW8bit"][0] == losses["AdamW"][0]
    assert losses["AdamW8bit"] != losses["AdamW"]
    assert losses["AdamW8bit"][-1] == pytest.approx(losses["AdamW"][-1], rel=0.1)
    assert losses["AdamW8bit"][-1] < 0.5 * losses["AdamW8bit"][0]


@pytest.mark.parametrize("signed", [True, False])
def test_the_nearest_value_is_the_one_that_a_search_finds(signed: bool) -> None:
    """Among them the very borders, and one bit to both sides of each."""
    table = dequantized(torch.arange(256, dtype=torch.uint8), torch.ones(1), signed=signed)
    middles = (table[1:] + table[:-1]) / 2
    up, down = (torch.nextafter(middles, torch.tensor(to)) for to in (2.0, -2.0))
    torch.manual_seed(2)
    values = torch.cat([middles, up, down, torch.randn(5000).clamp(-1, 1), torch.logspace(-9, 0, 2000)])
    values = torch.cat([values, -values] if signed else [values.abs()])
    ones = torch.ones(-(-len(values) // (BLOCK - 1)), BLOCK)  # so that every scale is 1
    ones[:, 1:] = torch.nn.functional.pad(values, (0, ones[:, 1:].numel() - len(values))).view(len(ones), -1)
    codes = quantized(ones.view(-1), signed=signed)[0].view(len(ones), BLOCK)[:, 1:].reshape(-1)[: len(values)]
    found = torch.bucketize(values, middles)
    if not signed:
        found = found.maximum((values > 0).long())
    assert torch.equal(codes.long(), found)
