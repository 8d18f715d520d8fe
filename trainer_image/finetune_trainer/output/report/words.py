"""The sentences of the page: what came out and with what certainty, and what the compute compares with. Pure."""

from __future__ import annotations

from typing import Final

from finetune_api.metrics import LOWER_IS_BETTER
from finetune_api.status import Compute, DatasetSummary, Resolved, Results, Score
from finetune_trainer.output.facts import scored_rows

__all__ = ["chinchilla", "headline", "interval"]

LEVEL: Final = 0.05
"""Below this p-value a difference is told as one; the intervals beside it are at the same level."""


def interval(score: Score) -> str:
    """Return the bounds as text; empty without any."""
    return f"{score.ci95[0]} to {score.ci95[1]}" if score.ci95 else ""


def headline(model: str, results: Results, data: DatasetSummary | None, resolved: Resolved) -> str:
    """Say in one sentence what was asked, what came out and how certain it is."""
    before, after = (_with_interval(score) for score in (results.baseline, results.test))
    asked = f"{resolved.method} tuning of {model}" if resolved.method else f"Tuning of {model}"
    metric = f"{results.metric} (lower is better)" if results.metric in LOWER_IS_BETTER else results.metric
    moved = f"took {metric} on {scored_rows(results, data)} from {before} to {after}"
    return f"{asked} {moved}: {_verdict(results)}"


def _with_interval(score: Score) -> str:
    bounds = interval(score)
    return f"{score.score} (95 % interval {bounds})" if bounds else score.score


def _verdict(results: Results) -> str:
    gain = float(results.gain)
    p = f"p = {results.p_value}" if results.p_value is not None else "no p-value"
    if gain == 0:
        return f"no difference ({p})."
    clear = results.p_value is not None and float(results.p_value) < LEVEL
    if not clear:
        return (
            f"a difference of {results.gain} that may well be chance ({p}); these rows don't show that tuning helped."
        )
    if gain < 0:
        return f"a loss of {results.gain.lstrip('-')} that chance would hardly give ({p}); tuning made the model worse."
    return f"a gain of {results.gain} that chance would hardly give ({p})."


def chinchilla(compute: Compute) -> str:
    """Compare the tokens with what training from scratch would want; empty where one of the two isn't known."""
    tokens, optimal = compute.train_tokens, compute.compute_optimal_tokens
    if not tokens or not optimal:
        return ""
    return (
        f"It was trained on {tokens:,} tokens, {_share(tokens / optimal)} of the {optimal:,} that a model of this size "
        "takes when it is trained from scratch at the least cost (20 tokens a parameter, Hoffmann et al. 2022). "
        "Adapting a trained model needs far fewer: it already has the language and learns one task."
    )


def _share(share: float) -> str:
    percent = 100 * share
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %" if percent >= 0.001 else "less than 0.001 %"
