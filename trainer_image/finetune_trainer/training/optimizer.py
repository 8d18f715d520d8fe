"""AdamW that keeps 32-bit master weights where the model's weights are shorter.

A bfloat16 weight has 8 significant bits; most updates of a fine-tune are smaller than half its last bit and would
vanish. So the optimizer steps on 32-bit copies, gradients are summed over micro-batches in 32 bits, and the model gets
the rounded result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["MasterAdamW", "OptimizerState"]

_MOMENTS = ("exp_avg", "exp_avg_sq")


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


class MasterAdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) without weight decay, as fine-tuning commonly runs it.

    Parameters
    ----------
    parameters
        The parameters to train, by name.
    """

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        self._parameters = parameters
        self._masters = {
            name: p if p.dtype == torch.float32 else p.detach().float().requires_grad_()
            for name, p in parameters.items()
        }
        self._short = [(p, self._masters[n]) for n, p in parameters.items() if self._masters[n] is not p]
        self._adamw = torch.optim.AdamW(list(self._masters.values()), lr=0.0, weight_decay=0.0, fused=True)

    def collect(self) -> None:
        """Move the gradients of a micro-batch from the model's weights to the masters; call after each backward."""
        for weight, master in self._short:
            if weight.grad is None:
                continue
            if master.grad is None:
                master.grad = weight.grad.float()
            else:
                master.grad.add_(weight.grad)
            weight.grad = None

    def step(self, learning_rate: float, *, max_norm: float) -> Tensor:
        """Clip, step, and copy the result into the model.

        Returns
        -------
        Tensor
            Scalar on the device: norm of all gradients before clipping.
        """
        norm = nn.utils.clip_grad_norm_(list(self._masters.values()), max_norm)
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        with torch.no_grad():
            for weight, master in self._short:
                weight.copy_(master)
        return norm

    def snapshot(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Copy the trained weights to the CPU, rounded once to ``dtype``."""
        return {n: m.detach().to("cpu", dtype, copy=True) for n, m in self._masters.items()}

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Shape of every trained parameter."""
        return {name: master.shape for name, master in self._masters.items()}

    def state(self) -> OptimizerState:
        """Copy the state to the CPU; the training may go on while the copy is stored."""
        states = {n: s for n, m in self._masters.items() if (s := self._adamw.state.get(m))}
        first, second = ({n: _copy(s[key]) for n, s in states.items()} for key in _MOMENTS)
        return OptimizerState(
            masters={n: _copy(m) for n, m in self._masters.items()},
            exp_avg=first,
            exp_avg_sq=second,
            steps={n: int(s["step"]) for n, s in states.items()},
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
        for name, master in self._masters.items():
            master.copy_(state.masters[name])
            self._adamw.state.pop(master, None)
            if name in state.steps:
                kept = (state.exp_avg[name], state.exp_avg_sq[name])
                # In the parameter's own memory layout, as AdamW itself makes them.
                moments = [torch.zeros_like(master, memory_format=torch.preserve_format).copy_(m) for m in kept]
                step = torch.tensor(float(state.steps[name]), dtype=torch.float32, device=master.device)
                self._adamw.state[master] = {"step": step, **dict(zip(_MOMENTS, moments, strict=True))}
        for weight, master in self._short:
            weight.copy_(master)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()
