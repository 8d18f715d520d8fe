"""The evaluator beside lm-evaluation-harness itself, which is handed the same rows as texts and the same model folder.

The harness knows nothing of the trainer: it tokenises, pads, batches, sums and counts by its own code. For
encoder-decoder models the kinds whose answers begin with one start token are compared: it feeds BART-like ones another
beginning than their own ``generate`` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune_api.metrics import MetricName
from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.evaluation.results import Evaluation
from finetune_trainer.model.load import LoadedModel, load_model
from finetune_trainer.text.encode import Encoder
from finetune_trainer.text.example import Encoded, Example
from tests.support.harness import Harness
from tests.support.score_kit import Row, hand_over
from tests.support.tiny_model import learnable_rows, make_model
from tests.support.tiny_seq2seq import make_encoder_decoder

CHOICES = ("good music", "bug", "a thin plot", "the man", "sports")
"""Of different lengths, so that the likeliest choice and the likeliest one a character are not the same."""
ROWS = tuple((prompt, CHOICES[number % len(CHOICES)]) for number, (prompt, _) in enumerate(learnable_rows(24, seed=5)))
KINDS: dict[str, Callable[[Path], None]] = {
    "llama": lambda folder: make_model(folder, seed=3, chat=False),
    "llama with a BOS token": lambda folder: make_model(folder, seed=3, chat=False, bos=True),
    "gpt2": lambda folder: make_model(folder, architecture="gpt2", seed=3, chat=False),
    "t5": lambda folder: make_encoder_decoder(folder, "t5", seed=3),
    "t5-untied": lambda folder: make_encoder_decoder(folder, "t5-untied", seed=3),
}


@dataclass(frozen=True, slots=True)
class Pair:
    """One model folder, loaded by both."""

    ours: LoadedModel
    encoder: Encoder
    harness: Harness
    chosen: Sequence[Mapping[str, Any]]
    """What the harness chose for each row."""

    def score(self, metric: MetricName, *, choices: tuple[str, ...] = ()) -> Evaluation:
        """Score the rows as a job does: encoded by the trainer's encoder, then by its evaluator."""
        encoded = [one for one in self.encoder.encode([Example("", *row) for row in ROWS]) if isinstance(one, Encoded)]
        assert len(encoded) == len(ROWS)
        rows: list[Row] = [(list(one.prompt), list(one.completion), 0 if choices else -1) for one in encoded]
        answers = [choices.index(answer) for _, answer in ROWS] if choices else [-1] * len(ROWS)
        part, prepared = hand_over(rows, metric=metric, answers=answers)
        sets = (self.encoder.choices(choices),) if choices else ()
        prepared = replace(prepared, choice_sets=sets, end_ids=self.encoder.end_ids, pad_id=self.encoder.pad_id)
        return evaluate(self.ours, part, prepared, texts=(), generate=False)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    @cache
    def make(kind: str) -> Pair:
        folder = tmp_path_factory.mktemp("model")
        KINDS[kind](folder)
        ours = load_model(folder, device=torch.device("cpu"), precision="Float32")
        encoder = Encoder(ours.tokenizer, max_length=400, encoder_decoder=ours.encoder_decoder)
        harness = Harness.load(folder)
        return Pair(ours, encoder, harness, harness.choose(ROWS, CHOICES))

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_the_harness_finds_the_same_rows_right(pair: Callable[[str], Pair], kind: str) -> None:
    both = pair(kind)
    acc, acc_norm = ({i for i, row in enumerate(both.chosen) if row[name]} for name in ("acc", "acc_norm"))
    assert {row.index for row in both.score("ChoiceAccuracy", choices=CHOICES).rows if row.correct} == acc
    assert {row.index for row in both.score("ChoiceAccuracyNorm", choices=CHOICES).rows if row.correct} == acc_norm
    assert acc != acc_norm
    assert 0 < len(acc) < len(ROWS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_harness_sees_the_same_likelihoods(pair: Callable[[str], Pair], kind: str) -> None:
    both = pair(kind)
    scored = both.score("ChoiceAccuracy", choices=CHOICES)
    for row, theirs in zip(scored.rows, both.chosen, strict=True):
        each = np.array(theirs["likelihoods"])
        assert row.chosen == int(each.argmax())
        assert row.confidence == pytest.approx(float(np.exp(each.max()) / np.exp(each).sum()), rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_harness_has_the_same_perplexity_of_the_answers(pair: Callable[[str], Pair], kind: str) -> None:
    both = pair(kind)
    scored = both.score("Perplexity")
    # It is told of the blank before an answer and of the end token, which are text to it.
    end = both.ours.tokenizer.decode(list(both.encoder.end_ids))
    blank = "" if both.ours.encoder_decoder else " "
    theirs = both.harness.answers([(prompt, blank + answer + end) for prompt, answer in ROWS])
    assert [row.loss for row in scored.rows] == pytest.approx([-one for one in theirs], rel=1e-4)
    tokens = int(
        scored.rows.column("tokens").sum()
    )  # of which ours is the mean, and that of the harness one of answers
    assert scored.value == pytest.approx(math.exp(-sum(theirs) / tokens), rel=1e-3)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_harness_has_the_same_perplexity_of_whole_texts(pair: Callable[[str], Pair], kind: str) -> None:
    """Each text follows the BOS token, as the harness lets it, and no end token follows the text."""
    both = pair(kind)
    tokenizer, texts = both.ours.tokenizer, [prompt for prompt, _ in ROWS[:8]]
    rows: list[Row] = [
        ([tokenizer.bos_token_id], tokenizer(text, add_special_tokens=False)["input_ids"], -1) for text in texts
    ]
    part, prepared = hand_over(rows, metric="Perplexity", answers=[-1] * len(rows))
    scored = evaluate(both.ours, part, prepared, texts=(), generate=False)
    count, size = sum(len(ids) for _, ids, _ in rows), sum(len(text.encode()) for text in texts)
    assert math.log(scored.value) * count / size == pytest.approx(
        math.log(both.harness.byte_perplexity(texts)), rel=1e-4
    )
