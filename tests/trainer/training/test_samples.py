"""What the model writes to a few validation rows as it learns: which rows, when, how much, and that it costs no bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune_api.metrics import MetricName
from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.model.load import LoadedModel
from finetune_trainer.prepare.prepared import NO_ROOM, Prepared, TextRow
from finetune_trainer.training import samples as samples_module
from finetune_trainer.training.loop import train
from finetune_trainer.training.plan import Hyperparameters
from finetune_trainer.training.samples import Sample, Samples
from tests.support import seq2seq_kit
from tests.support.tiny_model import learnable_rows, make_model, make_prepared
from tests.support.tiny_seq2seq import make_encoder_decoder
from tests.support.train_kit import FULL, Recorder, load, without_validation

ROWS = learnable_rows(80, seed=4)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    make_model(folder)
    return folder


def prepared_for(loaded: LoadedModel, metric: MetricName = "ChoiceAccuracy", most: int = 8) -> Prepared:
    rows = {"train": ROWS[:32], "validation": ROWS[32:64], "test": ROWS[64:]}
    return dataclasses.replace(make_prepared(loaded.tokenizer, rows), metric=metric, max_new_tokens=most)


def asked(base: Path, prepared: Prepared | None = None, parameters: Hyperparameters = FULL, rows: int = 10) -> Recorder:
    loaded, told = load(base), Recorder()
    train(loaded, prepared or prepared_for(loaded), parameters, observer=told, samples=rows)
    return told


def times(samples: Sequence[Sample]) -> list[tuple[int, float]]:
    return list(dict.fromkeys((sample.step, sample.epoch) for sample in samples))


def test_the_same_rows_are_asked_before_the_first_step_and_after_each_epoch(base: Path) -> None:
    told = asked(base)
    assert times(told.samples) == [(0, 0), (2, 1), (4, 2)]
    by_time = [[s.index for s in told.samples if s.step == step] for step in (0, 2, 4)]
    assert by_time[0] == by_time[1] == by_time[2]
    assert len(set(by_time[0])) == 10


def test_a_training_with_samples_ends_with_the_bits_of_one_without(base: Path) -> None:
    outcomes = []
    for rows in (0, 10):
        loaded = load(base)
        outcomes.append(train(loaded, prepared_for(loaded, "ExactMatch"), FULL, samples=rows))
    without, with_samples = outcomes
    assert with_samples.losses == without.losses
    assert with_samples.validation == without.validation
    assert all(torch.equal(with_samples.weights[name], weights) for name, weights in without.weights.items())


@pytest.mark.parametrize("metric", ["ChoiceAccuracy", "ExactMatch", "ROUGEL", "Perplexity"])
def test_a_sample_is_what_the_evaluation_says_of_its_row(base: Path, metric: MetricName) -> None:
    loaded, told = load(base), Recorder()
    prepared = prepared_for(loaded, metric)
    part, texts = prepared.parts["validation"], prepared.texts["validation"]
    whole = evaluate(loaded, part, prepared, texts=texts, generate=True)
    train(loaded, prepared, FULL, observer=told, samples=10)
    for sample in told.samples[:10]:
        row = whole.rows[sample.index]
        assert sample.completion == row.generated
        assert sample.choice == (row.predicted if metric == "ChoiceAccuracy" else None)
        graded = metric in ("ROUGEL", "Perplexity")
        assert sample.correct == (None if graded else row.correct)
        assert sample.score == (pytest.approx(whole.row_values[sample.index], rel=1e-5) if graded else None)


def test_an_answer_that_was_cut_says_so_and_is_not_judged(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples_module, "LEAST", 2)
    monkeypatch.setattr(samples_module, "MOST", 2)
    loaded = load(base)
    told = asked(base, prepared_for(loaded, "ExactMatch", most=40))
    cut = [sample for sample in told.samples if sample.cut]
    assert cut
    assert all(sample.correct is None and sample.score is None for sample in cut)
    assert all(sample.correct is not None for sample in told.samples if not sample.cut)


def test_a_choice_is_judged_however_short_the_text_is_cut(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples_module, "LEAST", 1)
    monkeypatch.setattr(samples_module, "MOST", 1)
    told = asked(base)
    assert any(sample.cut for sample in told.samples)
    assert all(sample.correct is not None for sample in told.samples)


def test_an_answer_as_long_as_the_evaluations_own_bound_is_judged_as_there(base: Path) -> None:
    told = asked(base, prepared_for(load(base), "ExactMatch", most=2))
    assert any(sample.cut for sample in told.samples)
    assert all(sample.correct is not None for sample in told.samples)


def test_rows_that_do_not_fit_are_not_asked(base: Path) -> None:
    prepared = prepared_for(load(base))
    part = prepared.parts["validation"]
    marks = np.where(np.arange(len(part)) % 2 == 0, NO_ROOM, 0).astype(np.int32)
    parts = {**prepared.parts, "validation": dataclasses.replace(part, unanswerable=marks)}
    told = asked(base, dataclasses.replace(prepared, parts=parts))
    assert {sample.index % 2 for sample in told.samples} == {1}


def test_fewer_rows_than_ten_are_all_asked_and_none_where_there_are_none(base: Path) -> None:
    prepared = prepared_for(load(base))
    assert asked(base, without_validation(prepared)).samples == []
    few = make_prepared(load(base).tokenizer, {"train": ROWS[:32], "validation": ROWS[32:35], "test": ROWS[64:]})
    assert [sample.index for sample in asked(base, few).samples[:3]] == [0, 1, 2]


def test_a_training_that_ends_inside_an_epoch_is_asked_at_its_end(base: Path) -> None:
    told = asked(base, parameters=dataclasses.replace(FULL, max_steps=3))
    assert times(told.samples) == [(0, 0), (2, 1), (3, 1.5)]


def test_of_many_epochs_every_so_manieth_is_asked_and_the_last(base: Path) -> None:
    loaded = load(base)
    samples = Samples(prepared_for(loaded), dataclasses.replace(FULL, epochs=45), rows=10)
    due = [epoch for epoch in range(46) if samples.due(2 * epoch, last=epoch == 44)]
    assert due == [*range(0, 45, 3), 44, 45]


@pytest.mark.parametrize(
    ("most", "tokens", "limit"),
    [(8, 10**7, 8), (500, 100, 16), (500, 20_000, 40), (500, 10**7, 128), (12, 100, 12)],
)
def test_samples_take_two_of_a_hundred_tokens_of_an_epoch_within_bounds(most: int, tokens: int, limit: int) -> None:
    assert samples_module._limit(most, tokens, 10) == limit


def test_an_encoder_decoder_model_is_asked_too(tmp_path: Path) -> None:
    make_encoder_decoder(tmp_path, "t5")
    loaded = seq2seq_kit.load(tmp_path)
    prepared, told = seq2seq_kit.prepared_of(loaded), Recorder()
    part = prepared.parts["validation"]
    texts = [TextRow(int(row), "question", "answer") for row in part.rows]
    prepared = dataclasses.replace(prepared, texts={**prepared.texts, "validation": texts})
    whole = evaluate(loaded, part, prepared, texts=texts, generate=True)
    train(loaded, prepared, FULL, observer=told, samples=10)
    assert told.samples
    first = [sample for sample in told.samples if sample.step == 0]
    assert [s.completion for s in first] == [whole.rows[s.index].generated for s in first]
