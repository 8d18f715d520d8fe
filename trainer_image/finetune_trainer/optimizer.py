"""AdamW that keeps 32-bit master weights where the model's weights are shorter.

A bfloat16 weight has 8 significant bits; most updates of a fine-tune are smaller than half its last bit and would
vanish. So the optimizer steps on 32-bit copies, gradients are summed over micro-batches in 32 bits, and the model gets
the rounded result.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["MasterAdamW"]


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
