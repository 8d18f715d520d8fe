"""AdamW whose two moments take a byte a number each, by block-wise dynamic quantisation.

The method is that of Dettmers et al. 2021 (arXiv:2110.02861): 256 numbers share a scale, and each is the nearest of 256
values that lie the closer the smaller they are. In plain torch, so that the CPU and a GPU do the same; the library that
is known for it takes 11 seconds and 190 MB to import, which every training with adapters would pay through peft.

A weight with few numbers keeps its moments in 32 bits: it saves nothing, and norms and biases are sensitive.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Final

import torch
from torch import Tensor
from typing_extensions import override

from finetune_trainer.training.masters import PIECE, Piece, Weight
from finetune_trainer.training.optimizer import MasterAdamW, adamw_step

__all__ = ["BLOCK", "SMALLEST", "MasterAdamW8bit", "dequantized", "quantized"]

BLOCK: Final = 256
"""Numbers that share a scale."""
SMALLEST: Final = 4096
"""A weight with fewer numbers keeps its moments in 32 bits."""
_DECADES: Final = 7
_GPU_PIECE: Final = 2**24
"""Numbers that a step on a GPU works on at once; only so many moments stand in 32 bits at a time."""
_SCALE: Final = "_scale"
_MOMENTS: Final = ("exp_avg", "exp_avg_sq")


class MasterAdamW8bit(MasterAdamW):
    """As :class:`MasterAdamW`, with moments in 8 bits where a weight has :data:`SMALLEST` numbers or more."""

    KINDS = (*_MOMENTS, "exp_avg_scale", "exp_avg_sq_scale")

    @override
    def _begin(self, weight: Tensor) -> dict[str, Tensor]:
        if weight.numel() < SMALLEST:
            return {kind: torch.zeros_like(weight, dtype=torch.float32) for kind in _MOMENTS}
        moments = {}
        for kind in _MOMENTS:
            nothing = torch.zeros(weight.numel(), device=weight.device)
            moments[kind], moments[kind + _SCALE] = quantized(nothing, signed=kind == "exp_avg")
        return moments

    @override
    def _update(self, weights: Sequence[Weight], scale: Tensor, *, learning_rate: float, decay: float) -> None:
        small = [weight for weight in weights if "exp_avg_scale" not in (weight.moments or {})]
        if small:
            super()._update(small, scale, learning_rate=learning_rate, decay=decay)
        for weight in weights:
            for piece in _pieces(weight) if "exp_avg_scale" in (weight.moments or {}) else ():
                _step(piece, scale, learning_rate=learning_rate, decay=decay)


def _pieces(weight: Weight) -> Iterator[Piece]:
    """Cut at borders of blocks; a weight that lies in memory in another order can't be cut."""
    if not weight.data.is_contiguous():
        yield Piece(weight)
        return
    size = PIECE if weight.data.device.type == "cpu" else _GPU_PIECE
    for start in range(0, weight.data.numel(), size):
        yield Piece(weight, slice(start, min(weight.data.numel(), start + size)))


def _step(piece: Piece, scale: Tensor, *, learning_rate: float, decay: float) -> None:
    moments, whole = piece.weight.moments or {}, slice(0, piece.weight.data.numel())
    numbers = piece.range or whole
    blocks = slice(numbers.start // BLOCK, -(-numbers.stop // BLOCK))
    master = piece.weight.master(piece.range)
    first, second = (
        torch.empty_like(master).copy_(
            dequantized(moments[kind][numbers], moments[kind + _SCALE][blocks], signed=kind == "exp_avg").view_as(
                master
            )
        )
        for kind in _MOMENTS
    )
    adamw_step(
        [master],
        [piece.gradient(scale)],
        ([first], [second]),
        steps=[piece.weight.steps],
        learning_rate=learning_rate,
        decay=decay,
    )
    piece.weight.store(master, piece.range)
    for kind, wide in zip(_MOMENTS, (first, second), strict=True):
        codes, scales = quantized(wide.reshape(-1), signed=kind == "exp_avg")
        moments[kind][numbers] = codes
        moments[kind + _SCALE][blocks] = scales


def quantized(values: Tensor, *, signed: bool) -> tuple[Tensor, Tensor]:
    """Return a byte for each of the values, and the scale of each block of :data:`BLOCK`.

    Without a sign, a value above zero never becomes zero: it is a second moment, which is divided by.
    """
    blocks = torch.nn.functional.pad(values, (0, -len(values) % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(dim=1)
    # Of a block of zeros every number stays zero, whatever it is divided by.
    shares = blocks / scales.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    lower, middles = _search(signed, values.device)
    upper_half = shares.view(torch.int32).bitwise_right_shift(16).add_(2**15)
    codes = lower.index_select(0, upper_half.view(-1)).view_as(shares)
    codes.add_(shares > middles.index_select(0, codes.view(-1)).view_as(shares))
    if not signed:
        codes = codes.maximum((blocks > 0).int())
    return codes.to(torch.uint8).view(-1)[: len(values)], scales


def dequantized(codes: Tensor, scales: Tensor, *, signed: bool) -> Tensor:
    """Return the values of bytes."""
    shares = _values(signed, codes.device).index_select(0, codes.int())
    return shares.mul_(scales.repeat_interleave(BLOCK)[: len(codes)])


@cache
def _search(signed: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return by the upper half of a number the lowest byte that it can be, and by byte where the next one begins.

    A number's upper half says so much that there is at most one border between those with the same; so the nearest
    value is found by two looks, in an eighth of the time of a search.
    """
    values = _values(signed, device)
    middles = (values[1:] + values[:-1]) / 2
    halves = torch.arange(-(2**15), 2**15, dtype=torch.int32, device=device) << 16
    lowest = torch.where(halves < 0, halves | 0xFFFF, halves).view(torch.float32).nan_to_num(0.0)
    return torch.bucketize(lowest, middles, out_int32=True), torch.cat([middles, middles.new_tensor([torch.inf])])


@cache
def _values(signed: bool, device: torch.device) -> Tensor:
    """Return the 256 values of a byte in their order, 1 the largest.

    Each power of ten has twice as many as the one below: the middles of equal parts of 0.1 to 1.
    """
    values = [0.0, 1.0]
    for decade in range(_DECADES):
        count = 2**decade if signed else 2 ** (decade + 1)
        edges = torch.linspace(0.1, 1, count + 1, dtype=torch.float64)
        middles = ((edges[1:] + edges[:-1]) / 2 * 10.0 ** (decade - _DECADES + 1)).tolist()
        values += [*middles, *(-value for value in middles)] if signed else middles
    return torch.tensor(sorted(values), dtype=torch.float32, device=device)
