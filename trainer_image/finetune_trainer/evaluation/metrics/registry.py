"""All metrics by name. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from finetune_api.metrics import SecondaryName
from finetune_trainer.evaluation.metrics import over_choices, over_json, over_ngrams, over_text, over_tokens
from finetune_trainer.evaluation.metrics.metric import Metric, TextMetric

__all__ = ["METRICS", "text_metrics"]

METRICS: Final[Mapping[SecondaryName, Metric]] = {
    metric.name: metric
    for metric in (
        over_choices.CHOICE_ACCURACY,
        over_choices.CHOICE_ACCURACY_NORM,
        over_choices.MACRO_F1,
        over_choices.BALANCED_ACCURACY,
        over_text.EXACT_MATCH,
        over_text.TOKEN_F1,
        over_text.NUMERIC_MATCH,
        over_ngrams.ROUGE1,
        over_ngrams.ROUGE2,
        over_ngrams.ROUGEL,
        over_ngrams.BLEU,
        over_ngrams.CHRF,
        over_json.JSON_FIELD_ACCURACY,
        over_json.JSON_VALIDITY,
        over_tokens.PERPLEXITY,
        over_tokens.TOKEN_ACCURACY,
        over_text.EXACT_MATCH_TOKENS,
        over_choices.ECE,
    )
}


def text_metrics(primary: SecondaryName, *, beside: bool) -> tuple[TextMetric, ...]:
    """Return those over text among a metric and, if asked, what is told beside it."""
    names = (primary, *(METRICS[primary].beside if beside else ()))
    return tuple(metric for name in names if isinstance(metric := METRICS[name], TextMetric))
