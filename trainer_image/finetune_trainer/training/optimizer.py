"""The optimizers, on the 32-bit masters of ``masters.py``: AdamW, and Adafactor, which remembers less.

What one remembers of its gradients is called by the library's names, so that a stored state can be read. Weight decay
leaves alone what it would harm without a use: norms and biases.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from typing_extensions import override

from finetune_trainer.training.masters import Piece, Weight, gradient_norm, groups, weight_of

__all__ = ["MasterAdafactor", "MasterAdamW", "MasterOptimizer", "OptimizerState", "adamw_step", "decaying"]

SMALLEST_SCALE: Final = 1e-3
"""Adafactor's second epsilon: a weight that is zero, as new adapters are, moves as one of this size would."""


@dataclass(frozen=True, kw_only=True)
class OptimizerState:
    """Everything that decides the next step besides its gradient, by parameter name, on the CPU.

    Attributes
    ----------
    masters
        32-bit weights.
    moments
        By kind, such as ``exp_avg``, what is remembered of the gradients; a parameter that never had one has none.
    steps
        Steps that each parameter with moments has taken.
    """

    masters: Mapping[str, Tensor]
    moments: Mapping[str, Mapping[str, Tensor]]
    steps: Mapping[str, int]


class MasterOptimizer(ABC):
    """What optimizers share: collecting gradients, clipping them, and their state.

    Parameters
    ----------
    parameters
        The parameters to train, by name.
    weight_decay
        Share of a weight that goes with each step, times the learning rate (Loshchilov and Hutter 2019).
    decayed
        Names of those that it goes off.
    """

    KINDS: ClassVar[tuple[str, ...]]
    """All kinds of moments that there may be."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], *, weight_decay: float = 0.0, decayed: Collection[str] = ()
    ) -> None:
        self._weights = {name: weight_of(p) for name, p in parameters.items()}
        self._decay = {id(self._weights[name]): weight_decay for name in decayed} if weight_decay else {}

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

        Parameters
        ----------
        max_norm
            What the norm of all gradients is cut to; 0 leaves them as they are.

        Returns
        -------
        Tensor
            Scalar on the device: norm of all gradients before clipping.
        """
        moved = [weight for weight in self._weights.values() if weight.gradient is not None]
        if not moved:
            return torch.zeros(())
        norm = gradient_norm([weight.gradient for weight in moved if weight.gradient is not None])
        scale = (max_norm / (norm + 1e-6)).clamp(max=1.0) if max_norm else torch.ones_like(norm)
        for weight in moved:
            if weight.moments is None:
                weight.moments = self._begin(weight.data)
        for decay in sorted({self._decay.get(id(weight), 0.0) for weight in moved}):
            alike = [weight for weight in moved if self._decay.get(id(weight), 0.0) == decay]
            self._update(alike, scale, learning_rate=learning_rate, decay=decay)
        for weight in moved:
            weight.steps += 1
            weight.gradient = None
        return norm

    @abstractmethod
    def _begin(self, weight: Tensor) -> dict[str, Tensor]:
        """Return the moments of a weight that never had a gradient."""

    @abstractmethod
    def _update(self, weights: Sequence[Weight], scale: Tensor, *, learning_rate: float, decay: float) -> None:
        """Change masters and moments of weights whose gradients count ``scale`` times."""

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
            moments={k: {n: _copy(m[k]) for n, m in moments.items() if k in m} for k in self.KINDS},
            steps={n: int(self._weights[n].steps) for n in moments},
        )

    @torch.no_grad()
    def restore(self, state: OptimizerState) -> None:
        """Put a state back, and its weights into the model; it is copied.

        Raises
        ------
        ValueError
            The state is that of other parameters or of another optimizer; nothing has been changed then.
        """
        if {n: m.shape for n, m in state.masters.items()} != self.shapes:
            raise ValueError("the optimizer state belongs to other parameters")
        begun = {n: self._begin(self._weights[n].data) for n in state.steps}
        if any(
            {k: t.shape for k, t in new.items()} != {k: m[n].shape for k, m in state.moments.items() if n in m}
            for n, new in begun.items()
        ):
            raise ValueError("the optimizer state belongs to another optimizer")
        for name, weight in self._weights.items():
            weight.store(state.masters[name].to(weight.data.device))
            weight.moments = begun.get(name)
            weight.steps.fill_(state.steps.get(name, 0))
            for kind, tensor in (weight.moments or {}).items():
                tensor.copy_(state.moments[kind][name])


class MasterAdamW(MasterOptimizer):
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101): a first and a second moment of every number."""

    KINDS: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")

    @override
    def _begin(self, weight: Tensor) -> dict[str, Tensor]:
        # In the parameter's own memory layout.
        return {kind: torch.zeros_like(weight, dtype=torch.float32) for kind in self.KINDS}

    @override
    def _update(self, weights: Sequence[Weight], scale: Tensor, *, learning_rate: float, decay: float) -> None:
        for group in groups(weights):
            masters = [piece.weight.master(piece.range) for piece in group]
            adamw_step(
                masters,
                [piece.gradient(scale) for piece in group],
                ([piece.moments("exp_avg") for piece in group], [piece.moments("exp_avg_sq") for piece in group]),
                steps=[piece.weight.steps for piece in group],
                learning_rate=learning_rate,
                decay=decay,
            )
            for piece, master in zip(group, masters, strict=True):
                piece.weight.store(master, piece.range)


def adamw_step(
    masters: list[Tensor],
    gradients: list[Tensor],
    moments: tuple[list[Tensor], list[Tensor]],
    *,
    steps: list[Tensor],
    learning_rate: float,
    decay: float,
) -> None:
    """Take a step with torch's fused AdamW and its default betas; changes masters and moments in place."""
    first, second = moments
    adamw(
        masters,
        gradients,
        first,
        second,
        [],
        [step.clone() for step in steps],  # which this counts up
        fused=True,
        amsgrad=False,
        beta1=0.9,
        beta2=0.999,
        lr=learning_rate,
        weight_decay=decay,
        eps=1e-8,
        maximize=False,
    )


class MasterAdafactor(MasterOptimizer):
    """Adafactor (Shazeer and Stern 2018, arXiv:1804.04235), as torch.optim has it.

    Of a matrix it remembers the mean squares of rows and columns instead of every number, and no first moment. The
    learning rate is relative: a step moves a weight by that share of its own root mean square. It never is more than
    1 / sqrt(step), and an update whose root mean square is above 1 is cut to that.
    """

    KINDS = ("row_var", "col_var", "variance")

    @override
    def _begin(self, weight: Tensor) -> dict[str, Tensor]:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float32, device=weight.device)

        if weight.ndim < 2:
            return {"variance": zeros(*weight.shape)}
        *first, rows, columns = weight.shape
        return {"row_var": zeros(*first, rows, 1), "col_var": zeros(*first, 1, columns)}

    @override
    def _update(self, weights: Sequence[Weight], scale: Tensor, *, learning_rate: float, decay: float) -> None:
        for weight in weights:
            gradient, moments = Piece(weight).gradient(scale), weight.moments or {}
            master = weight.master()
            step = float(weight.steps) + 1
            newest = step**-0.8  # how much the newest gradient counts
            size = torch.linalg.vector_norm(master) / master.numel() ** 0.5
            rate = size.clamp(min=SMALLEST_SCALE) * min(learning_rate, step**-0.5)
            master.mul_(1 - learning_rate * decay)
            update = _mean_square(gradient, moments, newest).rsqrt_().mul_(gradient)
            too_long = (torch.linalg.vector_norm(update) / update.numel() ** 0.5).clamp(min=1.0)
            weight.store(master.sub_(update.mul_(rate / too_long)))


def _mean_square(gradient: Tensor, moments: Mapping[str, Tensor], newest: float) -> Tensor:
    """Bring the moments up to date and return the mean square of each number's gradient, as far as they tell it."""
    tiny = torch.finfo(torch.float32).eps
    if "variance" in moments:
        return moments["variance"].lerp_(gradient.square(), newest).clamp(min=tiny**2)
    rows = moments["row_var"].lerp_(gradient.square().mean(dim=-1, keepdim=True), newest)
    columns = moments["col_var"].lerp_(gradient.square().mean(dim=-2, keepdim=True), newest)
    return (rows @ columns).div_(rows.mean(dim=-2, keepdim=True).clamp(min=tiny)).clamp_(min=tiny**2)


def decaying(model: nn.Module) -> set[str]:
    """Name the parameters that weight decay is for: all but those of norms, biases, and other vectors."""
    names = set()
    for place, module in model.named_modules():
        if "norm" in type(module).__name__.lower():
            continue
        for own, parameter in module.named_parameters(recurse=False):
            if parameter.ndim > 1 and "bias" not in own:
                names.add(f"{place}.{own}".lstrip("."))
    return names


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()
