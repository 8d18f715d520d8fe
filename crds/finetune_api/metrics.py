"""Names of the metrics, and what both halves must know of each; how one is computed is the trainer's affair.

``finetune_trainer.evaluation.metrics`` has a definition and a source for every name; a test compares the two.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

__all__ = [
    "CHOICE_METRICS",
    "LABEL_METRICS",
    "LOWER_IS_BETTER",
    "METRICS",
    "TOKEN_METRICS",
    "MetricName",
    "SecondaryName",
]

MetricName = Literal[
    "ChoiceAccuracy",
    "ChoiceAccuracyNorm",
    "MacroF1",
    "BalancedAccuracy",
    "ExactMatch",
    "TokenF1",
    "NumericMatch",
    "ROUGE1",
    "ROUGE2",
    "ROUGEL",
    "BLEU",
    "ChrF",
    "JSONFieldAccuracy",
    "JSONValidity",
    "Perplexity",
    "TokenAccuracy",
]
SecondaryName = Literal[MetricName, "ExactMatchTokens", "ECE"]
"""ExactMatch compares text as the stop rule leaves it; ExactMatchTokens the tokens, end tokens included. ECE is the
expected calibration error of the choices' likelihoods."""

METRICS: Final[tuple[MetricName, ...]] = get_args(MetricName)
CHOICE_METRICS: Final[tuple[MetricName, ...]] = ("ChoiceAccuracy", "ChoiceAccuracyNorm", "MacroF1", "BalancedAccuracy")
"""Those that need known choices."""
LABEL_METRICS: Final[tuple[MetricName, ...]] = ("MacroF1", "BalancedAccuracy")
"""Those of them that need the same choices for all rows."""
TOKEN_METRICS: Final[tuple[MetricName, ...]] = ("Perplexity", "TokenAccuracy")
"""Those over the expected tokens; no text is generated for them."""
LOWER_IS_BETTER: Final[frozenset[SecondaryName]] = frozenset({"Perplexity", "ECE"})
"""All others are better the higher they are. A gain is always told so that above 0 is better."""
