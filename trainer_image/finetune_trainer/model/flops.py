"""What a training costs: floating point operations from the model's shape, by formula.

Forward and backward of a dense causal decoder take 6 operations a multiplied parameter and token, 4 where the weight is
frozen (no gradient of it is computed); the head counts only for the tokens whose logits are needed. Causal attention
takes 6 x layers x width x own length for a token (Kaplan et al. 2020, arXiv:2001.08361, table 1, halved for causality).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from finetune_api.status import Compute

__all__ = ["OPTIMAL_TOKENS_PER_PARAMETER", "Shape", "compute", "training_flops"]

OPTIMAL_TOKENS_PER_PARAMETER: Final = 20
"""Training tokens a parameter at which a model trained from scratch spends its compute best (Hoffmann et al. 2022,
arXiv:2203.15556). No goal for a fine-tune, which starts from what the model has learnt already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What of a model is multiplied.

    Attributes
    ----------
    parameters, trained
        Parameters of the base model, and those that training changes.
    body, head
        Parameters of the matrices in the blocks that a token passes through (of a mixture of experts, the share that
        is active), and of the head (once, tied or not).
    attention_width
        Sum over the layers of heads x head dimension.
    adapters
        Parameters of the adapters on those, 0 for a full fine-tune.
    """

    parameters: int
    trained: int
    body: int
    head: int
    attention_width: int
    adapters: int


def training_flops(shape: Shape, *, tokens: int, supervised: int, attention_pairs: int) -> float:
    """Operations of forward and backward over all epochs.

    Parameters
    ----------
    tokens, supervised
        Tokens seen, and the completion tokens among them.
    attention_pairs
        Sum of squared row lengths.
    """
    dense = 4 if shape.adapters else 6
    return (
        float(dense * shape.body + 6 * shape.adapters) * tokens
        + float(dense * shape.head) * supervised
        + 6.0 * shape.attention_width * attention_pairs
    )


def compute(
    shape: Shape, *, tokens: int, supervised: int, attention_pairs: int, seconds: float, peak_memory_bytes: int
) -> Compute:
    """Return the compute block of the status; ``seconds`` is the time in optimizer steps."""
    flops = training_flops(shape, tokens=tokens, supervised=supervised, attention_pairs=attention_pairs)
    return Compute(
        parameters=shape.parameters,
        trained_parameters=shape.trained,
        train_tokens=tokens,
        compute_optimal_tokens=OPTIMAL_TOKENS_PER_PARAMETER * shape.parameters,
        flops=f"{flops:.2e}".replace("e+0", "e").replace("e+", "e"),
        train_seconds=round(seconds),
        tokens_per_second=round(tokens / seconds) if seconds > 0 else 0,
        peak_memory_bytes=peak_memory_bytes,
    )
