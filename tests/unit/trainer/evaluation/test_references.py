"""The two references against scikit-learn's, and on rows that nobody can answer."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.metrics import f1_score
from sklearn.naive_bayes import MultinomialNB

from finetune_api.metrics import MetricName
from finetune_api.status import DatasetSummary, ReferenceScore, Results, Score
from finetune_trainer.evaluation import references as module
from finetune_trainer.evaluation.references import beats, naive_bayes, references, unbeaten_by
from finetune_trainer.evaluation.words import reference_facts
from finetune_trainer.prepare.prepared import EncodedPart, Prepared
from finetune_trainer.text.choices import ChoiceSet

WORDS, LABELS = 60, 4


def part(count: int, seed: int) -> EncodedPart:
    """Rows that begin alike; some words stand more often with one label."""
    rng = random.Random(seed)  # noqa: S311 - test data
    rows, answers = [], []
    for _ in range(count):
        label = min(rng.randrange(LABELS + 2), LABELS - 1)  # the last one is the most frequent
        words = [rng.randrange(10, WORDS) for _ in range(rng.randint(1, 12))]
        words += [10 + label] if rng.random() < 0.6 else []
        rows.append([1, 2, *words, 3])
        answers.append(label)
    return EncodedPart(
        tokens=np.array([t for row in rows for t in [*row, 90, 91]], dtype=np.int32),
        offsets=np.cumsum([0, *(len(row) + 2 for row in rows)]).astype(np.int64),
        prompt_lengths=np.array([len(row) for row in rows], dtype=np.int32),
        rows=np.arange(count, dtype=np.int64),
        choice_set=np.zeros(count, dtype=np.int32),
        answer=np.array(answers, dtype=np.int32),
        unanswerable=np.zeros(count, dtype=np.int32),
    )


TRAIN, TEST = part(300, 0), part(120, 1)
ALL = np.arange(120)


def prepared(metric: MetricName = "ChoiceAccuracy", *, test: EncodedPart = TEST, sets: int = 1) -> Prepared:
    choices = ChoiceSet(tuple("abcd"), ((5,), (6,), (7,), (8,)))
    return Prepared(
        parts={"train": TRAIN, "validation": TEST, "test": test},
        texts={},
        choice_sets=(choices,) * sets,
        score_end_tokens=False,
        end_ids=(1,),
        pad_id=0,
        max_new_tokens=4,
        metric=metric,
        template_digest="sha256:" + "0" * 64,
        tokenizer_digest="sha256:" + "0" * 64,
        summary=DatasetSummary(rows=420),
    )


def table(rows: EncodedPart) -> np.ndarray:
    present = np.zeros((len(rows), WORDS))
    for i in range(len(rows)):
        start = rows.offsets[i]
        present[i, rows.tokens[start : start + rows.prompt_lengths[i]]] = 1
    return present[:, 10:]  # what all rows begin and end with says nothing


def test_the_bag_of_words_labels_as_scikit_learns_naive_bayes_does() -> None:
    theirs = MultinomialNB().fit(table(TRAIN), TRAIN.answer).predict(table(TEST))
    ours = naive_bayes(TRAIN, TEST, ALL, labels=LABELS)
    assert ours.tolist() == theirs.tolist()
    assert len(set(theirs.tolist())) == LABELS


@pytest.mark.parametrize("metric", ["ChoiceAccuracy", "MacroF1", "ChoiceAccuracyNorm"])
def test_the_references_are_scored_by_the_metric_of_the_job(metric: MetricName) -> None:
    majority = DummyClassifier(strategy="most_frequent").fit(table(TRAIN), TRAIN.answer).predict(table(TEST))
    bag = MultinomialNB().fit(table(TRAIN), TRAIN.answer).predict(table(TEST))
    found = references(prepared(metric), ALL)
    assert [r.name for r in found] == ["MajorityClass", "BagOfWords"]
    for reference, given in zip(found, (majority, bag), strict=True):
        right = (given == TEST.answer).mean()
        expected = f1_score(TEST.answer, given, average="macro") if metric == "MacroF1" else right
        assert float(reference.score) == pytest.approx(expected, abs=1e-4)
    assert float(found[1].score) > float(found[0].score)


def test_only_the_rows_that_were_scored_count() -> None:
    rows = np.array([3, 50, 7])
    bag = naive_bayes(TRAIN, TEST, ALL, labels=LABELS)
    right = (bag[rows] == TEST.answer[rows]).mean()
    assert float(references(prepared(), rows)[1].score) == pytest.approx(right, abs=1e-4)


def test_rows_that_can_not_be_answered_count_as_wrong() -> None:
    hard = dataclasses.replace(TEST, unanswerable=np.ones(120, dtype=np.int32))
    assert [r.score for r in references(prepared(test=hard), ALL)] == ["0.0000", "0.0000"]
    unknown = dataclasses.replace(TEST, answer=np.full(120, -1, dtype=np.int32))
    assert [r.score for r in references(prepared(test=unknown), ALL)] == ["0.0000", "0.0000"]


def test_there_are_none_where_rows_share_no_choices_or_the_metric_is_over_text() -> None:
    assert references(prepared(sets=2), ALL) == []
    assert references(prepared(sets=0), ALL) == []
    assert references(prepared("ExactMatch"), ALL) == []


def test_a_row_without_any_known_word_gets_the_most_frequent_label() -> None:
    strange = dataclasses.replace(TEST, tokens=np.full_like(TEST.tokens, 5000))
    assert set(naive_bayes(TRAIN, strange, ALL, labels=LABELS).tolist()) == {LABELS - 1}


def test_a_label_that_train_never_had_is_never_given() -> None:
    assert naive_bayes(TRAIN, TEST, ALL, labels=LABELS + 1).max() == LABELS - 1


def test_with_little_memory_the_frequent_words_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CELLS", LABELS * 30)
    few = naive_bayes(TRAIN, TEST, ALL, labels=LABELS)
    assert (few == TEST.answer).mean() > (TEST.answer == LABELS - 1).mean()


def results(test: str) -> Results:
    score = Score(score=test, correct=1, total=2)
    found = [ReferenceScore(name="MajorityClass", score="0.5000"), ReferenceScore(name="BagOfWords", score="0.8000")]
    return Results(metric="ChoiceAccuracy", baseline=score, test=score, gain="+0.1", references=found)


@pytest.mark.parametrize(
    ("score", "unbeaten", "said"),
    [
        ("0.9000", (), None),
        ("0.8000", ("BagOfWords",), "does not beat a bag of words."),
        (
            "0.5000",
            ("MajorityClass", "BagOfWords"),
            "beats neither the most frequent label for every row nor a bag of words.",
        ),
    ],
)
def test_a_model_that_is_only_as_good_beats_nothing(score: str, unbeaten: tuple[str, ...], said: str | None) -> None:
    found = results(score)
    assert unbeaten_by(found) == unbeaten
    assert [beats(found, r) for r in found.references or []] == [r.name not in unbeaten for r in found.references or []]
    told = reference_facts(found)
    assert told[0] == (
        "Without a language model the same rows reach 0.5000 (the most frequent label for every row) "
        "and 0.8000 (a bag of words)."
    )
    assert told[1:] == ([f"The tuned model, at {score}, {said}"] if said else [])


def test_a_conversation_is_asked_with_all_that_stands_before_its_label() -> None:
    # The same rows, in which an answer of one token is learned before: every other one, so that some rows have no gap.
    several = np.arange(0, len(TRAIN), 2)
    ends = TRAIN.prompt_lengths[several]
    gaps = np.stack([several, np.full(len(several), 2), ends], axis=1).astype(np.int32).flatten()
    lengths = TRAIN.prompt_lengths.copy()
    lengths[several] = 1
    talks = dataclasses.replace(TRAIN, prompt_lengths=lengths, gaps=gaps)
    assert [talks.asked_length(row) for row in range(len(talks))] == TRAIN.prompt_lengths.tolist()
    assert talks.learned(0).tolist() == [1, *range(int(ends[0]), int(TRAIN.lengths[0]))]
    assert talks.learned(1).tolist() == TRAIN.learned(1).tolist()
    as_before = naive_bayes(TRAIN, TEST, ALL, labels=LABELS)
    assert naive_bayes(talks, TEST, ALL, labels=LABELS).tolist() == as_before.tolist()
