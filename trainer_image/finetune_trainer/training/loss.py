"""Cross-entropy over a large vocabulary, a few rows at a time.

Taken as a whole, it holds the logits in 32 bits, their log-probabilities and two gradients beside the short logits: six
times their memory, at the very moment when the activations of all layers are alive too. Here only the short logits and
one number for each of their rows are kept; what is in 32 bits are some rows at once, which stay in the processor's
cache.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from typing_extensions import override

__all__ = ["summed_cross_entropy"]

NUMBERS_AT_ONCE: Final = {"cpu": 2**21, "cuda": 2**28}


def summed_cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed cross-entropy of (n, vocabulary) logits, computed in 32 bits, and how many targets lead."""
    found: tuple[Tensor, Tensor] = _SummedCrossEntropy.apply(logits, targets)  # type: ignore[no-untyped-call]  # torch leaves apply() untyped
    return found


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        logits, targets = inputs
        total = torch.empty(len(logits), dtype=torch.float32, device=logits.device)  # log of the summed exponentials
        right = torch.zeros((), dtype=torch.int64, device=logits.device)
        for some in _parts(logits):
            total[some] = torch.logsumexp(logits[some].float(), dim=-1)
            right += (logits[some].argmax(-1) == targets[some]).sum()
        ctx.save_for_backward(logits, targets, total)
        ctx.mark_non_differentiable(right)
        return (total - logits.gather(1, targets[:, None])[:, 0].float()).sum(), right

    @staticmethod
    @override
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        logits, targets, total = ctx.saved_tensors
        of_logits = torch.empty_like(logits)
        for some in _parts(logits):
            shares = (logits[some].float() - total[some, None]).exp_()
            shares.scatter_add_(1, targets[some, None], shares.new_full((len(shares), 1), -1.0))
            of_logits[some] = shares.mul_(gradients[0])
        return of_logits, None


def _parts(logits: Tensor) -> list[slice]:
    at_once = max(1, NUMBERS_AT_ONCE[logits.device.type] // logits.shape[1])
    return [slice(i, i + at_once) for i in range(0, len(logits), at_once)]
