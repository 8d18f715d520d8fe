"""AdamW that keeps 32-bit master weights where the model's weights are shorter.

A bfloat16 weight has 8 significant bits; most updates of a fine-tune are smaller than half its last bit and would
vanish. So the optimizer steps on 32-bit numbers, gradients are summed over micro-batches in 32 bits, and the model gets
the rounded result.

Memory is what a training on a CPU runs out of first, so there nothing is kept twice: of a master only the half that its
weight doesn't show (:class:`_Split`), of a single micro-batch only its own short gradients; and the step goes through
the weights in pieces that fit into the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from typing_extensions import override

__all__ = ["MasterAdamW", "OptimizerState"]

PIECE: Final = 2**19
"""Numbers that a step on a CPU works on at once: 2 MiB of each kind in 32 bits."""


@dataclass(frozen=True, kw_only=True)
class OptimizerState:
    """Everything that decides the next step besides its gradient, by parameter name, on the CPU.

    Attributes
    ----------
    masters
        32-bit weights.
    exp_avg, exp_avg_sq
        First and second moments; a parameter that never had a gradient has none.
    steps
        Steps that each parameter with moments has taken.
    """

    masters: Mapping[str, Tensor]
    exp_avg: Mapping[str, Tensor]
    exp_avg_sq: Mapping[str, Tensor]
    steps: Mapping[str, int]


class _Weight:
    """A parameter with what the optimizer knows of it; its master is the parameter itself, in 32 bits.

    Attributes
    ----------
    gradient
        Sum over the micro-batches so far: in the parameter's own type after the first, in 32 bits from the second on.
    moments
        First and second; None before the first gradient.
    """

    def __init__(self, parameter: nn.Parameter) -> None:
        self.parameter = parameter
        self.data = parameter.detach()
        self.gradient: Tensor | None = None
        self.moments: tuple[Tensor, Tensor] | None = None
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

    def begin(self) -> tuple[Tensor, Tensor]:
        """Return the moments, which are made unless they are there."""
        if self.moments is None:
            # In the parameter's own memory layout.
            first, second = (torch.zeros_like(self.data, dtype=torch.float32) for _ in range(2))
            self.moments = (first, second)
        return self.moments


class _Copied(_Weight):
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


class _Split(_Weight):
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
class _Piece:
    """A weight, or a part of it as if it were flat."""

    weight: _Weight
    range: slice | None = None

    def gradient(self, scale: Tensor) -> Tensor:
        assert self.weight.gradient is not None  # noqa: S101 - only such weights are cut into pieces
        gradient = _cut(self.weight.gradient, self.range)
        return gradient.mul_(scale) if gradient.dtype == torch.float32 else gradient.float().mul_(scale)

    def moments(self) -> tuple[Tensor, Tensor]:
        first, second = self.weight.begin()
        return _cut(first, self.range), _cut(second, self.range)


class MasterAdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) without weight decay, as fine-tuning commonly runs it.

    Parameters
    ----------
    parameters
        The parameters to train, by name.
    """

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        self._weights = {name: _weight(p) for name, p in parameters.items()}

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Collect each gradient as soon as a backward pass has it, so that never all of a micro-batch's stand by."""
        handles = [w.parameter.register_post_accumulate_grad_hook(w.collect) for w in self._weights.values()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def collect(self) -> None:
        """Move the gradients of a micro-batch from the model's weights into the sums."""
        for weight in self._weights.values():
            weight.collect()

    @torch.no_grad()
    def step(self, learning_rate: float, *, max_norm: float) -> Tensor:
        """Clip, step, and copy the result into the model.

        Returns
        -------
        Tensor
            Scalar on the device: norm of all gradients before clipping.
        """
        moved = [weight for weight in self._weights.values() if weight.gradient is not None]
        if not moved:
            return torch.zeros(())
        norm = _norm([weight.gradient for weight in moved if weight.gradient is not None])
        scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for group in _groups(moved):
            masters = [piece.weight.master(piece.range) for piece in group]
            moments = [piece.moments() for piece in group]
            adamw(
                masters,
                [piece.gradient(scale) for piece in group],
                [first for first, _ in moments],
                [second for _, second in moments],
                [],
                [piece.weight.steps.clone() for piece in group],  # which this counts up
                fused=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=learning_rate,
                weight_decay=0.0,
                eps=1e-8,
                maximize=False,
            )
            for piece, master in zip(group, masters, strict=True):
                piece.weight.store(master, piece.range)
        for weight in moved:
            weight.steps += 1
            weight.gradient = None
        return norm

    def snapshot(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Copy the trained weights to the CPU, rounded once to ``dtype``."""
        return {n: w.master().to("cpu", dtype, copy=True) for n, w in self._weights.items()}

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Shape of every trained parameter."""
        return {name: weight.data.shape for name, weight in self._weights.items()}

    @property
    def gradients(self) -> dict[str, Tensor]:
        """The sums so far, in 32 bits, of the parameters that have any."""
        return {n: w.gradient.float() for n, w in self._weights.items() if w.gradient is not None}

    def state(self) -> OptimizerState:
        """Copy the state to the CPU; the training may go on while the copy is stored."""
        moments = {n: w.moments for n, w in self._weights.items() if w.moments is not None}
        return OptimizerState(
            masters={n: _copy(w.master()) for n, w in self._weights.items()},
            exp_avg={n: _copy(first) for n, (first, _) in moments.items()},
            exp_avg_sq={n: _copy(second) for n, (_, second) in moments.items()},
            steps={n: int(self._weights[n].steps) for n in moments},
        )

    @torch.no_grad()
    def restore(self, state: OptimizerState) -> None:
        """Put a state back, and its weights into the model; it is copied.

        Raises
        ------
        ValueError
            The state is that of other parameters; nothing has been changed then.
        """
        if {n: m.shape for n, m in state.masters.items()} != self.shapes:
            raise ValueError("the optimizer state belongs to other parameters")
        for name, weight in self._weights.items():
            weight.store(state.masters[name].to(weight.data.device))
            weight.moments = None
            weight.steps.fill_(state.steps.get(name, 0))
            if name in state.steps:
                first, second = weight.begin()
                first.copy_(state.exp_avg[name])
                second.copy_(state.exp_avg_sq[name])


def _weight(parameter: nn.Parameter) -> _Weight:
    if parameter.dtype == torch.float32:
        return _Weight(parameter)
    if parameter.dtype == torch.bfloat16 and parameter.device.type == "cpu":
        return _Split(parameter)
    return _Copied(parameter)


def _groups(weights: list[_Weight]) -> Iterator[list[_Piece]]:
    """Cut the weights into what a step works on at once: everything on a GPU, :data:`PIECE` numbers on a CPU."""
    if weights[0].data.device.type != "cpu":
        yield [_Piece(weight) for weight in weights]
        return
    group: list[_Piece] = []
    size = 0
    for weight in weights:
        count = weight.data.numel()
        if count > PIECE and weight.data.is_contiguous():
            yield from ([_Piece(weight, slice(i, min(count, i + PIECE)))] for i in range(0, count, PIECE))
            continue
        if group and size + count > PIECE:
            yield group
            group, size = [], 0
        group.append(_Piece(weight))
        size += count
    if group:
        yield group


def _cut(tensor: Tensor, piece: slice | None) -> Tensor:
    return tensor if piece is None else tensor.view(-1)[piece]


def _norm(gradients: list[Tensor]) -> Tensor:
    """Norm of all of them in 32 bits, without a long copy of a short gradient on a CPU."""
    norms: list[Tensor] = []
    for gradient in gradients:
        flat = gradient.is_contiguous() and gradient.device.type == "cpu"
        for piece in gradient.view(-1).split(PIECE) if flat else [gradient]:
            norms.append(torch.linalg.vector_norm(piece, dtype=torch.float32))
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()
