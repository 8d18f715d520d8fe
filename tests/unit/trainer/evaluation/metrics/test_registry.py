"""Every name of the API has a metric, and the two agree on what both must know."""

from __future__ import annotations

from typing import get_args

import numpy as np

from finetune_api.metrics import CHOICE_METRICS, LABEL_METRICS, SecondaryName
from finetune_api.metrics import METRICS as NAMES
from finetune_trainer.evaluation.metrics.metric import TextMetric
from finetune_trainer.evaluation.metrics.registry import METRICS, text_metrics


def test_every_name_has_its_metric() -> None:
    names = [name for part in get_args(SecondaryName) for name in (get_args(part) or (part,))]
    assert set(METRICS) == set(names)
    assert all(metric.name == name for name, metric in METRICS.items())


def test_the_api_knows_which_metrics_need_choices_and_labels() -> None:
    assert {n for n in NAMES if METRICS[n].needs != "nothing"} == set(CHOICE_METRICS)
    assert {n for n in NAMES if METRICS[n].needs == "labels"} == set(LABEL_METRICS)


def test_at_most_four_are_told_beside_a_metric_and_never_itself() -> None:
    for name, metric in METRICS.items():
        assert len(metric.beside) <= 4
        assert name not in metric.beside


def test_a_better_model_has_the_higher_score_but_for_perplexity_and_calibration() -> None:
    assert {n for n, m in METRICS.items() if not m.higher_is_better} == {"Perplexity", "ECE"}


def test_the_words_of_a_metric_say_where_less_is_better() -> None:
    assert [n for n, m in METRICS.items() if "lower is better" in m.meaning] == ["Perplexity", "ECE"]


def test_calibration_is_told_beside_every_metric_over_choices() -> None:
    assert all("ECE" in METRICS[name].beside for name in CHOICE_METRICS)


def test_a_share_of_right_rows_says_what_is_right() -> None:
    assert all(metric.verdict is not None for metric in METRICS.values() if metric.counted)


def test_texts_are_asked_for_where_the_metric_or_the_reader_wants_them() -> None:
    assert [m.name for m in text_metrics("ROUGEL", beside=False)] == ["ROUGEL"]
    assert [m.name for m in text_metrics("ROUGEL", beside=True)] == ["ROUGEL", "ROUGE1", "ROUGE2", "ChrF"]
    assert text_metrics("ChoiceAccuracy", beside=False) == ()


def test_a_text_metric_keeps_as_much_of_an_empty_answer_as_of_any() -> None:
    for metric in METRICS.values():
        if isinstance(metric, TextMetric):
            assert len(metric.compare("", "a b")) == len(metric.compare("a b", "a b"))
            assert metric.of_all(np.array([metric.compare("", "a b")])) == 0
