"""An exact match comes from one forward over the expected answer: how far that is what `generate` would write."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.evaluation.results import Evaluation
from finetune_trainer.model.load import LoadedModel, Precision, load_model
from finetune_trainer.prepare.prepared import Prepared
from tests.support.score_kit import END, Loader, Row, hand_over, plain_greedy, texts_of
from tests.support.tiny_model import learnable_rows, make_model, make_prepared

ROWS = 160
LIMIT = 6


def disagreements(loaded: LoadedModel) -> int:
    """Rows in which one forward and a plain `generate` differ; every other row expects the model's own words."""
    rows: list[Row] = []
    greedy = []
    for i, (prompt, label) in enumerate(learnable_rows(ROWS, seed=7)):
        ids = loaded.tokenizer(prompt)["input_ids"]
        greedy.append(plain_greedy(loaded, ids, LIMIT))
        label_ids = loaded.tokenizer(f" {label}")["input_ids"]
        rows.append((ids, greedy[-1] if i % 2 else [*label_ids, END], -1))
    part, prepared = hand_over(rows, max_new_tokens=LIMIT)
    scored = evaluate(loaded, part, prepared, texts=texts_of(loaded, rows), generate=False)
    assert any(r.exact_match_tokens for r in scored.rows)
    return sum(
        result.exact_match_tokens != (own == expected)
        for result, own, (_, expected, _) in zip(scored.rows, greedy, rows, strict=True)
    )


def loaded_as(folder: Path, precision: Precision) -> LoadedModel:
    make_model(folder, seed=3)
    return load_model(folder, device=torch.device("cpu"), precision=precision)


def test_in_32_bits_one_forward_and_generate_agree_on_every_row(tmp_path: Path) -> None:
    assert disagreements(loaded_as(tmp_path, "Float32")) == 0


def test_in_16_bits_few_rows_differ_and_the_page_tells_how_many_were_seen(tmp_path: Path) -> None:
    seen = disagreements(loaded_as(tmp_path, "BFloat16"))
    assert seen <= ROWS // 20


@pytest.mark.parametrize("metric", ["ChoiceAccuracy", "ExactMatch", "Perplexity"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_neither_the_padding_side_nor_the_pad_token_changes_a_result(model: Loader, metric: str, side: str) -> None:
    loaded = model("llama")
    prepared = dataclasses.replace(make_prepared(loaded.tokenizer), metric=metric)
    plain = asked(loaded, prepared)
    before = loaded.tokenizer.padding_side
    loaded.tokenizer.padding_side = side
    try:
        other = asked(loaded, dataclasses.replace(prepared, pad_id=9))
    finally:
        loaded.tokenizer.padding_side = before
    for a, b in zip(plain.rows, other.rows, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-5)
        assert (a.chosen, a.correct, a.generated) == (b.chosen, b.correct, b.generated)


def asked(loaded: LoadedModel, prepared: Prepared) -> Evaluation:
    return evaluate(loaded, prepared.parts["test"], prepared, texts=prepared.texts["test"], generate=True)
