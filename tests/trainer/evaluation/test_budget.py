"""An evaluation keeps within its budget, whichever way it takes, and holds one batch of questions at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_trainer.evaluation import answering, batches
from finetune_trainer.evaluation.batches import Budget
from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.evaluation.questions import Questions
from finetune_trainer.evaluation.results import Evaluation
from finetune_trainer.model.load import LoadedModel
from tests.support.tiny_model import Architecture, make_model, make_prepared
from tests.support.train_kit import load


def run(loaded: LoadedModel, **settings: Any) -> Evaluation:
    prepared = make_prepared(loaded.tokenizer)
    return evaluate(loaded, prepared.parts["test"], prepared, texts=prepared.texts["test"], generate=True, **settings)


@contextmanager
def watched(loaded: LoadedModel) -> Iterator[tuple[list[int], list[int]]]:
    """Tokens fed, and numbers in the logits, of each forward pass."""
    fed: list[int] = []
    logits: list[int] = []
    hooks = [
        loaded.model.get_input_embeddings().register_forward_hook(lambda _m, args, _o: fed.append(args[0].numel())),
        loaded.model.get_output_embeddings().register_forward_hook(lambda _m, _a, out: logits.append(out.numel())),
    ]
    yield fed, logits
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_no_forward_pass_feeds_more_than_the_budget(
    tmp_path: Path, architecture: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path, architecture=architecture)
    loaded = load(tmp_path)
    monkeypatch.setattr(answering, "supports_branches", lambda *_: architecture == "llama")  # without trying
    with watched(loaded) as (fed, _):
        run(loaded, token_budget=120)
    assert 60 < max(fed) <= 120


@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_no_forward_pass_makes_more_logits_than_the_budget(
    tmp_path: Path, architecture: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path, architecture=architecture)
    loaded = load(tmp_path)
    monkeypatch.setattr(answering, "supports_branches", lambda *_: architecture == "llama")
    bound = 40 * 512  # positions of the tiny vocabulary
    monkeypatch.setitem(batches._BUDGETS, "cpu", Budget(tokens=10**5, slots=10**6, logits=bound))
    with watched(loaded) as (_, logits):
        run(loaded)
    assert bound / 4 < max(logits) <= bound


def test_a_shared_beginning_counts_for_every_row_that_it_is_copied_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path)
    loaded = load(tmp_path)
    run(loaded)
    copies: list[int] = []
    original = answering.score

    def spy(*args: Any, **settings: Any) -> Any:
        copies.append(len(args[1]))
        return original(*args, **settings)

    monkeypatch.setattr(answering, "score", spy)
    run(loaded)
    assert copies == [16]
    copies.clear()
    monkeypatch.setitem(batches._BUDGETS, "cpu", Budget(tokens=10**5, slots=200, logits=10**9))
    run(loaded)
    assert max(copies) < 8


@pytest.mark.parametrize("generate", [True, False])
def test_answers_alone_are_scored_and_decoded_as_those_that_share_their_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generate: bool
) -> None:
    make_model(tmp_path)
    loaded = load(tmp_path)
    prepared = make_prepared(loaded.tokenizer)
    outcomes = []
    for shared in (True, False):
        monkeypatch.setattr(answering, "supports_branches", lambda *_, shared=shared: shared)
        part, texts = prepared.parts["test"], prepared.texts["test"]
        outcomes.append(evaluate(loaded, part, prepared, texts=texts, generate=generate, token_budget=300).rows)
    for one, other in zip(*outcomes, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-4)
        assert one.confidence == pytest.approx(other.confidence, rel=1e-4)
        assert dataclasses.replace(one, loss=0.0, confidence=None) == dataclasses.replace(
            other, loss=0.0, confidence=None
        )


def test_questions_are_made_a_batch_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model(tmp_path)
    loaded = load(tmp_path)
    made: list[int] = []
    told: list[tuple[int, int]] = []
    original = Questions.__getitem__

    def spy(self: Questions, at: int) -> Any:
        made.append(at)
        return original(self, at)

    monkeypatch.setattr(Questions, "__getitem__", spy)
    run(loaded, token_budget=120, progress=lambda done, _total: told.append((done, len(made))))
    assert len(told) > 1
    assert all(done == count for done, count in told)


def test_sums_over_the_vocabulary_are_the_same_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model(tmp_path)
    loaded = load(tmp_path)
    whole = run(loaded)
    monkeypatch.setattr("finetune_trainer.evaluation.score.COPIED_LOGITS", 3 * 512)
    assert [r.loss for r in run(loaded).rows] == [r.loss for r in whole.rows]
    assert torch.is_grad_enabled()
