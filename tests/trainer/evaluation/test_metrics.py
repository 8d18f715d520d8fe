"""The metrics as the evaluator takes them from a model: definitions, batches, rows that can't be answered."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from finetune_api.metrics import METRICS as NAMES
from finetune_api.metrics import MetricName
from finetune_trainer.evaluation.answers import Answers
from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.evaluation.metrics.metric import TextMetric
from finetune_trainer.evaluation.metrics.registry import METRICS
from finetune_trainer.evaluation.results import Evaluation
from finetune_trainer.prepare.prepared import EncodedPart, Prepared
from tests.support.score_kit import END, Loader, hand_over, log_likelihood, texts_of
from tests.support.tiny_model import make_prepared

TEXT = [name for name in NAMES if isinstance(METRICS[name], TextMetric)]


def asked(model: Loader, metric: MetricName, *, generate: bool = True) -> Evaluation:
    loaded = model("llama")
    prepared = dataclasses.replace(make_prepared(loaded.tokenizer), metric=metric)
    part, texts = prepared.parts["test"], prepared.texts["test"]
    return evaluate(loaded, part, prepared, texts=texts, generate=generate, limit=8)


def test_the_normalised_choice_has_the_highest_likelihood_a_character(model: Loader) -> None:
    loaded = model("llama")
    prepared = dataclasses.replace(make_prepared(loaded.tokenizer), metric="ChoiceAccuracyNorm")
    part, choices = prepared.parts["test"], prepared.choice_sets[0]
    rows = evaluate(loaded, part, prepared, texts=prepared.texts["test"], generate=False).rows
    best = []
    for i in range(len(part)):
        prompt = part.tokens[part.offsets[i] : part.offsets[i] + part.prompt_lengths[i]].tolist()
        each = [log_likelihood(loaded, prompt, ids) / len(t) for t, ids in zip(choices.texts, choices.ids, strict=True)]
        best.append(int(np.argmax(each)))
    assert [r.predicted for r in rows] == [choices.texts[i] for i in best]
    assert [r.correct for r in rows] == [b == a for b, a in zip(best, part.answer.tolist(), strict=True)]
    assert best != [r.chosen for r in rows]  # the two rules differ here


def test_scores_over_labels_are_those_of_the_answers_that_were_given(model: Loader) -> None:
    scored = asked(model, "MacroF1")
    expected, given = [r.expected for r in scored.rows], [r.predicted for r in scored.rows]
    assert scored.value == pytest.approx(f1_score(expected, given, average="macro"))
    balanced = scored.value_of("BalancedAccuracy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)
        assert balanced == pytest.approx(balanced_accuracy_score(expected, given))


@pytest.mark.parametrize("metric", TEXT)
def test_a_text_is_measured_as_it_is_shown(model: Loader, metric: MetricName) -> None:
    scored, measure = asked(model, metric), METRICS[metric]
    assert isinstance(measure, TextMetric)
    kept = np.array([measure.compare(r.generated or "", r.expected) for r in scored.rows])
    assert scored.value == pytest.approx(measure.of_all(kept))


@pytest.mark.parametrize("metric", NAMES)
def test_a_validation_without_texts_to_show_has_the_same_score(model: Loader, metric: MetricName) -> None:
    assert asked(model, metric, generate=False).value == pytest.approx(asked(model, metric).value, rel=1e-5)


@pytest.mark.parametrize("metric", ["ChoiceAccuracyNorm", "MacroF1", "ROUGEL", "BLEU", "Perplexity"])
def test_neither_batches_nor_the_order_of_rows_change_a_score(model: Loader, metric: MetricName) -> None:
    loaded = model("llama")
    prepared = dataclasses.replace(make_prepared(loaded.tokenizer), metric=metric)
    part, texts = prepared.parts["test"], prepared.texts["test"]
    turned = reverse(part)
    one = evaluate(loaded, part, prepared, texts=texts, generate=True, token_budget=1)
    other = evaluate(loaded, turned, prepared, texts=texts[::-1], generate=True, token_budget=100_000)
    assert one.value == pytest.approx(other.value, rel=1e-4)
    assert (one.interval is None) == (other.interval is None)
    assert one.interval is None or one.interval == pytest.approx(other.interval, rel=1e-3)


def reverse(part: EncodedPart) -> EncodedPart:
    rows = [part.tokens[part.offsets[i] : part.offsets[i + 1]] for i in range(len(part))][::-1]
    turned = {
        f.name: getattr(part, f.name)[::-1] for f in dataclasses.fields(part) if f.name not in ("tokens", "offsets")
    }
    return EncodedPart(tokens=np.concatenate(rows), offsets=np.cumsum([0, *map(len, rows)]).astype(np.int64), **turned)


def test_perplexity_is_exp_of_the_loss(model: Loader) -> None:
    scored = asked(model, "Perplexity")
    assert scored.value == pytest.approx(math.exp(scored.loss))
    assert scored.goodness == -scored.value
    assert scored.score().correct is None


def test_a_perplexity_of_no_token_at_all_is_not_the_best_one(model: Loader) -> None:
    part, prepared = no_room("Perplexity")
    scored = evaluate(model("llama"), part, prepared, texts=[], generate=False)
    assert scored.value > 1e300
    assert scored.score().score == "1.7977e+308"


def no_room(metric: MetricName) -> tuple[EncodedPart, Prepared]:
    part, prepared = hand_over([([5, 6], [7, END], -1)], metric=metric, unanswerable=[2])
    return dataclasses.replace(part, tokens=part.tokens[:0], offsets=part.offsets * 0), prepared


@pytest.mark.parametrize("metric", TEXT)
def test_a_row_that_does_not_fit_scores_nothing(model: Loader, metric: MetricName) -> None:
    part, prepared = no_room(metric)
    texts = make_prepared(model("llama").tokenizer).texts["test"][:1]
    assert evaluate(model("llama"), part, prepared, texts=texts, generate=True).value == 0


@pytest.mark.parametrize("metric", ["ROUGEL", "ChrF", "TokenF1"])
def test_an_expected_answer_that_goes_on_after_the_stop_text_is_never_wholly_reached(
    model: Loader, metric: MetricName
) -> None:
    loaded, prompt = model("llama"), [50, 60, 70]
    encode = loaded.tokenizer
    expected = [*encode("one\ntwo three", add_special_tokens=False)["input_ids"], END]
    _, prepared = hand_over([(prompt, expected, -1)], metric=metric)
    prepared = dataclasses.replace(prepared, stop=("\n",))
    reference = Answers(encode, prepared, frozenset({END}), whole=True).expected(expected)
    assert reference == "one\ntwo three"
    measure = METRICS[metric]
    assert isinstance(measure, TextMetric)
    assert measure.of_all(np.array([measure.compare("one", reference)])) < 1


@pytest.mark.parametrize("metric", ["ChoiceAccuracy", "MacroF1", "BLEU", "Perplexity"])
def test_scores_are_kept_and_read_with_every_bit(model: Loader, metric: MetricName) -> None:
    scored = asked(model, metric)
    again = Evaluation.from_wire(json.loads(json.dumps(scored.to_wire())))
    assert again == scored
    assert (again.score(), again.interval) == (scored.score(), scored.interval)


def test_kept_scores_that_lack_what_the_metric_needs_are_refused(model: Loader) -> None:
    wire = {**asked(model, "ROUGEL").to_wire(), "measures": {}}
    with pytest.raises(ValueError, match="not scored by ROUGEL"):
        Evaluation.from_wire(wire)


def test_labels_of_rows_with_choices_of_their_own_are_no_labels(model: Loader) -> None:
    part, prepared = hand_over(
        [([5, 6, 7], [9, END], 0), ([5, 6, 8], [9, END], 1)], [[[9], [10]], [[9], [11]]], metric="ChoiceAccuracy"
    )
    loaded = model("llama")
    texts = texts_of(loaded, [([5, 6, 7], [9, END], 0), ([5, 6, 8], [9, END], 1)])
    scored = evaluate(loaded, part, prepared, texts=texts, generate=False)
    assert scored.value_of("MacroF1") is None
    assert [s.name for s in scored.secondary] == ["ExactMatch", "ChoiceAccuracyNorm", "ECE"]


def test_confidence_is_the_chosen_ones_share_of_all_likelihoods(model: Loader) -> None:
    loaded, prompt, choices = model("llama"), [50, 60, 70], [[9, 10], [11], [12, 13]]
    part, prepared = hand_over([(prompt, [11, END], 0)], [choices], metric="ChoiceAccuracy", answers=[1])
    (row,) = evaluate(loaded, part, prepared, texts=(), generate=False).rows
    each = np.exp([log_likelihood(loaded, prompt, ids) for ids in choices])
    assert row.confidence == pytest.approx(each.max() / each.sum(), rel=1e-4)
