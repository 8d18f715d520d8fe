"""Each metric against what defines it, on the same rows: scikit-learn, rouge-score, sacrebleu."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rouge_score import rouge_scorer
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from finetune_trainer.evaluation.metrics.over_choices import reliability
from finetune_trainer.evaluation.metrics.registry import METRICS
from finetune_trainer.evaluation.rows import Rows
from tests.unit.trainer.evaluation.metrics.kit import labelled, of_texts, scored

LABELS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=40)
WORDS = ("the", "cat", "sat", "on", "a", "mat", "Dog's", "ran,", "ran.", "x-ray", "3.5", "end")


def sentences(count: int, *, seed: int = 0, longest: int = 25) -> list[str]:
    rng = random.Random(seed)  # noqa: S311 - test data
    return [" ".join(rng.choice(WORDS) for _ in range(rng.randint(0, longest))) for _ in range(count)]


@settings(deadline=None)
@given(LABELS)
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.filterwarnings("ignore:A single label was found")
def test_scores_over_labels_are_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    expected, chosen = zip(*pairs, strict=True)
    kept = labelled(expected, chosen)
    assert METRICS["MacroF1"].of_all(kept) == pytest.approx(f1_score(expected, chosen, average="macro"))
    assert METRICS["BalancedAccuracy"].of_all(kept) == pytest.approx(balanced_accuracy_score(expected, chosen))


def test_choice_accuracy_is_scikit_learns() -> None:
    rng = random.Random(1)  # noqa: S311 - test data
    expected, chosen = ([rng.randrange(4) for _ in range(50)] for _ in range(2))
    rows = Rows.of([scored(i, right_choice=e == c) for i, (e, c) in enumerate(zip(expected, chosen, strict=True))])
    kept = METRICS["ChoiceAccuracy"].keeps(rows)
    assert kept is not None
    assert METRICS["ChoiceAccuracy"].of_all(kept) == pytest.approx(accuracy_score(expected, chosen))


@pytest.mark.parametrize(("name", "theirs"), [("ROUGE1", "rouge1"), ("ROUGE2", "rouge2"), ("ROUGEL", "rougeL")])
def test_rouge_is_that_of_rouge_score_on_english_text(name: str, theirs: str) -> None:
    scorer = rouge_scorer.RougeScorer([theirs], use_stemmer=False)
    said, expected = sentences(60), sentences(60, seed=1)
    for one, other in zip(said, expected, strict=True):
        assert of_texts(name, [one], [other]) == pytest.approx(scorer.score(other, one)[theirs].fmeasure)  # type: ignore[arg-type]
    mean = sum(scorer.score(b, a)[theirs].fmeasure for a, b in zip(said, expected, strict=True)) / 60
    assert of_texts(name, said, expected) == pytest.approx(mean)  # type: ignore[arg-type]


def test_bleu_is_the_corpus_bleu_of_sacrebleu() -> None:
    said, expected = sentences(40), sentences(40, seed=1)
    theirs = sacrebleu.corpus_bleu(said, [expected]).score
    assert 0 < theirs < 50
    assert of_texts("BLEU", said, expected) == pytest.approx(theirs / 100)


@pytest.mark.parametrize("longest", [1, 3, 25])
def test_bleu_of_short_texts_is_that_of_sacrebleu_too(longest: int) -> None:
    said, expected = sentences(20, longest=longest), sentences(20, seed=2, longest=longest)
    assert of_texts("BLEU", said, expected) == pytest.approx(sacrebleu.corpus_bleu(said, [expected]).score / 100)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), min_size=1, max_size=8))
def test_chrf_is_the_corpus_chrf_of_sacrebleu(pairs: list[tuple[str, str]]) -> None:
    said, expected = zip(*pairs, strict=True)
    theirs = sacrebleu.corpus_chrf(said, [expected]).score
    assert of_texts("ChrF", said, expected) == pytest.approx(theirs / 100)


def test_a_text_that_is_the_expected_one_scores_exactly_one() -> None:
    texts = ["the cat sat on the mat today", "a dog ran home through the rain"]
    for name in ("ROUGE1", "ROUGE2", "ROUGEL", "BLEU", "ChrF", "TokenF1"):
        assert of_texts(name, texts, texts) == 1.0  # type: ignore[arg-type]


def test_perplexity_is_exp_of_the_mean_token_loss_and_token_accuracy_the_share_of_tokens() -> None:
    rows = Rows.of([scored(0, loss=2.0, tokens=1, tokens_correct=1), scored(1, loss=4.0, tokens=9, tokens_correct=0)])
    values = {}
    for name in ("Perplexity", "TokenAccuracy"):
        kept = METRICS[name].keeps(rows)  # type: ignore[index]
        assert kept is not None
        values[name] = METRICS[name].of_all(kept)  # type: ignore[index]
    assert values == {"Perplexity": pytest.approx(math.exp(0.6)), "TokenAccuracy": pytest.approx(0.1)}


def test_the_calibration_error_is_the_weighted_gap_of_fifteen_bins() -> None:
    rng = np.random.default_rng(3)
    confidence = rng.uniform(0.2, 1, 300)
    right = rng.uniform(size=300) < confidence**2
    gap, edges = 0.0, np.linspace(0, 1, 16)
    for low, high in itertools.pairwise(edges):  # as in the paper: (low, high]
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            gap += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    rows = Rows.of(
        [
            scored(i, confidence=float(c), right_choice=bool(r))
            for i, (c, r) in enumerate(zip(confidence, right, strict=True))
        ]
    )
    kept = METRICS["ECE"].keeps(rows)
    assert kept is not None
    assert METRICS["ECE"].of_all(kept) == pytest.approx(gap)


def sure(seed: int, count: int) -> NDArray[np.float64]:
    """(confidence, right) of made-up rows, some of them on the edges of bins."""
    rng = np.random.default_rng(seed)
    confidence = np.where(rng.uniform(size=count) < 0.3, rng.integers(1, 16, count) / 15, rng.uniform(size=count))
    return np.stack([confidence, rng.uniform(size=count) < confidence**2], axis=1).astype(np.float64)


@pytest.mark.parametrize("seed", range(5))
def test_the_points_of_the_reliability_diagram_are_those_of_scikit_learn(seed: int) -> None:
    kept = sure(seed, 400)
    right, confidence = calibration_curve(kept[:, 1], kept[:, 0], n_bins=15, strategy="uniform")
    bins = reliability(kept)
    assert [one.right for one in bins] == pytest.approx(right.tolist())
    assert [one.confidence for one in bins] == pytest.approx(confidence.tolist())
    assert sum(one.rows for one in bins) == 400


def test_the_calibration_error_is_the_mean_distance_in_the_diagram() -> None:
    kept = sure(7, 300)
    apart = sum(one.rows * abs(one.right - one.confidence) for one in reliability(kept)) / 300
    assert METRICS["ECE"].of_all(kept) == pytest.approx(apart)


def test_rows_that_were_not_asked_have_no_part_in_calibration() -> None:
    rows = Rows.of([scored(0, confidence=0.9, right_choice=True), scored(1, right_choice=False)])
    kept = METRICS["ECE"].keeps(rows)
    assert kept is not None
    assert METRICS["ECE"].of_all(kept) == pytest.approx(0.1)
    assert [(one.rows, one.right) for one in reliability(kept)] == [(1, 1.0)]
