"""What can be had without a language model, on the same sealed rows: the most frequent answer, and a bag of words.

Both learn from the train rows alone, on a CPU, in seconds. A model that doesn't beat them has not learned the task.
They are for rows that share their choices; the words are the model's own tokens, which prepare has made already. Pure,
no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from finetune_api.metrics import CHOICE_METRICS, MetricName
from finetune_api.status import ReferenceScore, Results
from finetune_trainer.evaluation.metrics.metric import Array
from finetune_trainer.evaluation.metrics.registry import METRICS
from finetune_trainer.evaluation.stats import decimal
from finetune_trainer.prepare.prepared import EncodedPart, Prepared

__all__ = ["beats", "most_frequent", "naive_bayes", "references", "unbeaten_by"]

MOST_ROWS: Final = 100_000
"""Train rows that are looked at, evenly spread: a bag of words learns no more from others."""
MOST_CELLS: Final = 2**25
"""Counts, words times labels, that are held at once; the rarer words are left out."""
Ints = NDArray[np.int64]


def references(prepared: Prepared, rows: Ints) -> list[ReferenceScore]:
    """Score both on the test rows at these positions; empty where rows share no choices, or the metric has none.

    ChoiceAccuracyNorm is a rule for likelihoods; here it is the share of right rows, as ChoiceAccuracy is.
    """
    train, test = prepared.parts["train"], prepared.parts["test"]
    if len(prepared.choice_sets) != 1 or prepared.metric not in CHOICE_METRICS or not len(train):
        return []
    labels = len(prepared.choice_sets[0].texts)
    majority = np.full(len(rows), most_frequent(train.answer), dtype=np.int64)
    bag = naive_bayes(train, test, rows, labels=labels)
    return [
        ReferenceScore(name="MajorityClass", score=decimal(_score(prepared.metric, test, rows, majority, labels))),
        ReferenceScore(name="BagOfWords", score=decimal(_score(prepared.metric, test, rows, bag, labels))),
    ]


def beats(results: Results, reference: ReferenceScore) -> bool:
    """Whether the tuned model is better than a reference; of all metrics over choices more is better."""
    return float(results.test.score) > float(reference.score)


def unbeaten_by(results: Results) -> tuple[str, ...]:
    """Return the names of the references that the tuned model does not beat."""
    return tuple(r.name for r in results.references or [] if not beats(results, r))


def most_frequent(answers: NDArray[np.int32]) -> int:
    """Return the most frequent label; of equals the first."""
    known = answers[answers >= 0]
    return int(np.bincount(known).argmax()) if len(known) else 0


def naive_bayes(train: EncodedPart, test: EncodedPart, rows: Ints, *, labels: int) -> Ints:
    """Label test rows by multinomial naive Bayes over the prompts' tokens (Manning et al. 2008, chapter 13).

    Each token counts once a row, with add-one smoothing. Tokens that stand in every train row say nothing and are left
    out, and so are those that train never had.
    """
    learnt = np.flatnonzero(train.answer >= 0)
    learnt = learnt[:: max(1, -(-len(learnt) // MOST_ROWS))]
    frequency = np.zeros(int(train.tokens.max(initial=0)) + 1, dtype=np.int64)
    for tokens in _bags(train, learnt):
        frequency[tokens] += 1
    words = np.flatnonzero((frequency > 0) & (frequency < len(learnt)))
    if len(words) > MOST_CELLS // labels:
        words = words[np.argsort(-frequency[words], kind="stable")[: MOST_CELLS // labels]]
    number = np.full(len(frequency), -1, dtype=np.int64)
    number[words] = np.arange(len(words))
    counts = np.ones((labels, len(words)))
    rows_of = np.zeros(labels)
    for tokens, label in zip(_bags(train, learnt), train.answer[learnt].tolist(), strict=True):
        known = number[tokens]
        counts[label, known[known >= 0]] += 1
        rows_of[label] += 1
    with np.errstate(divide="ignore"):  # a label without train rows is never given
        prior = np.log(rows_of) - np.log(max(1.0, rows_of.sum()))
    likelihood = np.log(counts) - np.log(counts.sum(axis=1, keepdims=True)) if len(words) else counts
    given = np.zeros(len(rows), dtype=np.int64)
    for at, tokens in enumerate(_bags(test, rows)):
        known = number[tokens[tokens < len(number)]]
        given[at] = int((prior + likelihood[:, known[known >= 0]].sum(axis=1)).argmax())
    return given


def _bags(part: EncodedPart, rows: Ints) -> Iterator[Ints]:
    """Yield the different tokens of what each row is asked with: of a conversation all that stands before its label."""
    for row in rows.tolist():
        start = int(part.offsets[row])
        yield np.unique(part.tokens[start : start + part.asked_length(row)]).astype(np.int64)


def _score(metric: MetricName, test: EncodedPart, rows: Ints, given: Ints, labels: int) -> float:
    """Score labels as the evaluator scores a model's: rows that can't be answered count as wrong."""
    expected = test.answer[rows].astype(np.int64)
    expected[(expected < 0) | (test.unanswerable[rows] != 0)] = labels
    kept: Array = np.stack([expected, given], axis=1).astype(np.float64)
    if metric in ("MacroF1", "BalancedAccuracy"):
        return METRICS[metric].of_all(kept)
    return float((expected == given).mean())
