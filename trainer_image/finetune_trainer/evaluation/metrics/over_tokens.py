"""Metrics over the expected tokens under teacher forcing; no text is generated for them. Pure."""

from __future__ import annotations

import sys
from typing import Final

import numpy as np

from finetune_trainer.evaluation.metrics.metric import Array, Metric, share
from finetune_trainer.evaluation.rows import Rows

__all__ = ["PERPLEXITY", "TOKEN_ACCURACY"]

_MOST: Final = np.log(sys.float_info.max)


def _pair(rows: Rows, above: str) -> Array:
    return np.stack([rows.column(above), rows.column("tokens")], axis=1).astype(np.float64)


def _perplexity(kept: Array, weights: Array) -> Array:
    """A model that was asked for no token at all has not earned the best value, 1."""
    asked = weights @ kept[:, 1] > 0
    return np.asarray(np.exp(np.where(asked, np.minimum(share(kept, weights), _MOST), _MOST)))


PERPLEXITY: Final = Metric(
    name="Perplexity",
    kind="score",
    meaning="the perplexity of an expected token: lower is better, 1 is the best",
    keeps=lambda rows: _pair(rows, "loss"),
    value=_perplexity,
    most=None,
    beside=("TokenAccuracy", "ExactMatch"),
)
"""exp of the mean negative log-likelihood of a token of the expected completions, end tokens included (Jelinek et al.
1977). Comparable only between models with the same tokenizer, as before and after are. Rows that don't fit into
maxLength have no tokens and are left out."""

TOKEN_ACCURACY: Final = Metric(
    name="TokenAccuracy",
    kind="score",
    meaning="the share of expected tokens that are the most likely ones after the right beginning",
    keeps=lambda rows: _pair(rows, "tokens_correct"),
    value=share,
    beside=("Perplexity", "ExactMatch"),
)
"""Share of the expected completions' tokens that are the model's arg-max under teacher forcing, end tokens included:
``mean_token_accuracy`` of OpenAI's fine-tuning API. Rows that don't fit into maxLength are left out."""
