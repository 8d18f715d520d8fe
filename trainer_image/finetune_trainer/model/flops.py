"""What a training costs: floating point operations from the model's shape, by formula.

Forward and backward of a dense causal decoder take 6 operations a multiplied parameter and token, 4 where the weight is
frozen (no gradient of it is computed); the head counts only for the tokens whose logits are needed. Causal attention
takes 6 x layers x width x own length for a token (Kaplan et al. 2020, arXiv:2001.08361, table 1, halved for causality).
An encoder looks both ways, at twice the cost, and so does a decoder at what the encoder made of the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from finetune_api.status import Compute

__all__ = ["OPTIMAL_TOKENS_PER_PARAMETER", "EncoderShape", "Shape", "compute", "training_flops"]

OPTIMAL_TOKENS_PER_PARAMETER: Final = 20
"""Training tokens a parameter at which a model trained from scratch spends its compute best (Hoffmann et al. 2022,
arXiv:2203.15556). No goal for a fine-tune, which starts from what the model has learnt already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderShape:
    """What of a model prompt tokens alone pass through: an encoder, and what the decoder attends to of its output.

    The attributes are those of :class:`Shape`.
    """

    body: int
    attention_width: int
    adapters: int


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
    encoder
        Of an encoder-decoder model: its encoder. ``body``, ``attention_width`` and ``adapters`` are then the decoder's,
        and only completion tokens pass through it.
    """

    parameters: int
    trained: int
    body: int
    head: int
    attention_width: int
    adapters: int
    encoder: EncoderShape | None = None


def training_flops(shape: Shape, *, tokens: int, supervised: int, attention_pairs: int, prompt_pairs: int = 0) -> float:
    """Operations of forward and backward over all epochs.

    Parameters
    ----------
    tokens, supervised
        Tokens seen, and the completion tokens among them.
    attention_pairs, prompt_pairs
        Sums of squared lengths of rows and of prompts; the latter counts for an encoder only.
    """
    encoder = shape.encoder
    dense = 4 if shape.adapters or (encoder and encoder.adapters) else 6
    if encoder is not None:
        # (prompt + answer)^2 - prompt^2 holds the answer's own pairs once and those with the prompt twice.
        return (
            float(dense * encoder.body + 6 * encoder.adapters) * (tokens - supervised)
            + float(dense * (shape.body + shape.head) + 6 * shape.adapters) * supervised
            + 12.0 * encoder.attention_width * prompt_pairs
            + 6.0 * shape.attention_width * (attention_pairs - prompt_pairs)
        )
    return (
        float(dense * shape.body + 6 * shape.adapters) * tokens
        + float(dense * shape.head) * supervised
        + 6.0 * shape.attention_width * attention_pairs
    )


def compute(
    shape: Shape,
    *,
    tokens: int,
    supervised: int,
    attention_pairs: int,
    prompt_pairs: int = 0,
    seconds: float,
    peak_memory_bytes: int,
) -> Compute:
    """Return the compute block of the status; ``seconds`` is the time in optimizer steps."""
    flops = training_flops(
        shape, tokens=tokens, supervised=supervised, attention_pairs=attention_pairs, prompt_pairs=prompt_pairs
    )
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
