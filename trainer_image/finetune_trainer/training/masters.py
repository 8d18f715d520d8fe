"""Trained parameters in 32 bits, where the model's own are shorter; what every optimizer steps on.

A bfloat16 weight has 8 significant bits; most updates of a fine-tune are smaller than half its last bit and would
vanish. So an optimizer steps on 32-bit numbers, gradients are summed over micro-batches in 32 bits, and the model gets
the rounded result.

Memory is what a training on a CPU runs out of first, so there nothing is kept twice: of a master only the half that its
weight doesn't show (:class:`_Split`), of a single micro-batch only its own short gradients; and a step may go through
the weights in pieces that fit into the processor's cache. Below ``optimizer.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from typing_extensions import override

__all__ = ["Piece", "Weight", "gradient_norm", "groups", "weight_of"]

PIECE: Final = 2**19
"""Numbers that a step on a CPU works on at once: 2 MiB of each kind in 32 bits."""


class Weight:
    """A parameter with what the optimizer knows of it; its master is the parameter itself, in 32 bits.

    Attributes
    ----------
    gradient
        Sum over the micro-batches so far: in the parameter's own type after the first, in 32 bits from the second on.
    moments
        What the optimizer remembers of its gradients, by kind; None before the first gradient.
    steps
        Steps taken with a gradient.
    """

    def __init__(self, parameter: nn.Parameter) -> None:
        self.parameter = parameter
        self.data = parameter.detach()
        self.gradient: Tensor | None = None
        self.moments: dict[str, Tensor] | None = None
        self.steps = torch.zeros((), dtype=torch.float32, device=parameter.device)

    def master(self, piece: slice | None = None) -> Tensor:
        """Return a piece of the master to be changed and then given to :meth:`store`."""
        return _cut(self.data, piece)

    def store(self, master: Tensor, piece: slice | None = None) -> None:
        """Take over a piece of the master, and its rounding as weights."""
        if master is not self.data and piece is None:
            self.data.copy_(master)

    def collect(self, _parameter: Tensor | None = None) -> None:
        """Take the gradient away from the parameter; also a hook that is given the parameter."""
        gradient, self.parameter.grad = self.parameter.grad, None
        if gradient is None:
            return
        if self.gradient is None:
            self.gradient = gradient
        elif self.gradient.dtype == torch.float32:
            self.gradient.add_(gradient)
        else:
            self.gradient = self.gradient.float().add_(gradient)


class _Copied(Weight):
    """One whose 32-bit master stands beside it."""

    def __init__(self, parameter: nn.Parameter) -> None:
        super().__init__(parameter)
        self._master = self.data.float()

    @override
    def master(self, piece: slice | None = None) -> Tensor:
        return _cut(self._master, piece)

    @override
    def store(self, master: Tensor, piece: slice | None = None) -> None:
        _cut(self._master, piece).copy_(master)
        _cut(self.data, piece).copy_(master)


class _Split(Weight):
    """One in bfloat16, which is the upper half of its master; the lower half stands beside it.

    The weight is rounded to nearest, so the lower half counts from the weight: it is the signed distance in units of
    the master's last bit. Of a master that lies just between two weights the lower one of them may be the nearer by
    rounding to even, and the distance would not fit; such a master loses one unit, a part in 16 million.
    """

    def __init__(self, parameter: nn.Parameter) -> None:
        super().__init__(parameter)
        self._rest = torch.zeros_like(self.data, dtype=torch.int16)

    @override
    def master(self, piece: slice | None = None) -> Tensor:
        upper = _cut(self.data, piece).view(torch.int16).int().bitwise_left_shift_(16)
        return upper.add_(_cut(self._rest, piece)).view(torch.float32)

    @override
    def store(self, master: Tensor, piece: slice | None = None) -> None:
        bits = master.view(torch.int32)
        between = (bits & 0x1FFFF) == 0x8000
        bits = bits - between.int()
        _cut(self.data, piece).copy_(bits.view(torch.float32))
        _cut(self._rest, piece).copy_(bits)  # of an integer that is too long, the lower bits stay


@dataclass(frozen=True, slots=True)
class Piece:
    """A weight, or a part of it as if it were flat; what is given out of it may be changed in place."""

    weight: Weight
    range: slice | None = None

    def gradient(self, scale: Tensor) -> Tensor:
        """Return its gradient in 32 bits, multiplied by ``scale``; call it once."""
        assert self.weight.gradient is not None  # noqa: S101 - only such weights are cut into pieces
        gradient = _cut(self.weight.gradient, self.range)
        return gradient.mul_(scale) if gradient.dtype == torch.float32 else gradient.float().mul_(scale)

    def moments(self, kind: str) -> Tensor:
        """Return what is remembered of it."""
        assert self.weight.moments is not None  # noqa: S101 - the optimizer has made them
        return _cut(self.weight.moments[kind], self.range)


def weight_of(parameter: nn.Parameter) -> Weight:
    """Return a parameter with its master."""
    if parameter.dtype == torch.float32:
        return Weight(parameter)
    if parameter.dtype == torch.bfloat16 and parameter.device.type == "cpu":
        return _Split(parameter)
    return _Copied(parameter)


def groups(weights: Sequence[Weight]) -> Iterator[list[Piece]]:
    """Cut the weights into what a step works on at once: everything on a GPU, :data:`PIECE` numbers on a CPU."""
    if weights[0].data.device.type != "cpu":
        yield [Piece(weight) for weight in weights]
        return
    group: list[Piece] = []
    size = 0
    for weight in weights:
        count = weight.data.numel()
        if count > PIECE and weight.data.is_contiguous():
            yield from ([Piece(weight, slice(i, min(count, i + PIECE)))] for i in range(0, count, PIECE))
            continue
        if group and size + count > PIECE:
            yield group
            group, size = [], 0
        group.append(Piece(weight))
        size += count
    if group:
        yield group


def _cut(tensor: Tensor, piece: slice | None) -> Tensor:
    return tensor if piece is None else tensor.view(-1)[piece]


def gradient_norm(gradients: list[Tensor]) -> Tensor:
    """Norm of all of them in 32 bits, without a long copy of a short gradient on a CPU."""
    norms: list[Tensor] = []
    for gradient in gradients:
        flat = gradient.is_contiguous() and gradient.device.type == "cpu"
        for piece in gradient.view(-1).split(PIECE) if flat else [gradient]:
            norms.append(torch.linalg.vector_norm(piece, dtype=torch.float32))
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total
