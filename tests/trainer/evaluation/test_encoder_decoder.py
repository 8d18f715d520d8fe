"""The evaluator on encoder-decoder models, against the library's own model and plain generate."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune_trainer.evaluation import apart
from finetune_trainer.evaluation.answer_tree import build_tree
from finetune_trainer.evaluation.apart import branches
from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.evaluation.results import Evaluation
from finetune_trainer.prepare.prepared import EncodedPart
from finetune_trainer.text.stop import StopRule
from tests.support.score_kit import hand_over, said_by, texts_of
from tests.support.seq2seq_kit import load, own_likelihood, own_network, own_words, prepared_of
from tests.support.tiny_seq2seq import KINDS, Kind, make_encoder_decoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def make(kind: Kind) -> Path:
        place = tmp_path_factory.mktemp(kind)
        make_encoder_decoder(place, kind, seed=3)
        return place

    return make


def prompt_of(part: EncodedPart, row: int) -> list[int]:
    start = int(part.offsets[row])
    return part.tokens[start : start + int(part.prompt_lengths[row])].tolist()


def answer_of(part: EncodedPart, row: int) -> list[int]:
    return part.tokens[int(part.offsets[row]) + int(part.prompt_lengths[row]) : int(part.offsets[row + 1])].tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end_tokens", [False, True])
def test_choices_and_losses_are_those_of_naive_forwards(folder: Any, kind: Kind, end_tokens: bool) -> None:
    loaded, network = load(folder(kind)), own_network(folder(kind))
    prepared = dataclasses.replace(prepared_of(loaded), score_end_tokens=end_tokens)
    part = prepared.parts["test"]
    scored = evaluate(loaded, part, prepared, texts=(), generate=False)
    end = list(prepared.end_ids) if end_tokens else []
    for i, row in enumerate(scored.rows):
        prompt = prompt_of(part, i)
        sums = [own_likelihood(network, kind, prompt, [*ids, *end]) for ids in prepared.choice_sets[0].ids]
        assert row.chosen == int(np.argmax(sums))
        assert row.confidence == pytest.approx(float(np.exp(max(sums)) / np.exp(sums).sum()), rel=1e-3)
        assert row.loss == pytest.approx(-own_likelihood(network, kind, prompt, answer_of(part, i)), rel=1e-4)
        assert row.tokens == len(answer_of(part, i))


@pytest.mark.parametrize("kind", KINDS)
def test_exact_match_and_generated_text_are_those_of_plain_generate_on_every_row(folder: Any, kind: Kind) -> None:
    loaded, network = load(folder(kind)), own_network(folder(kind))
    made = prepared_of(loaded, choices=False)
    end, part = made.end_ids[-1], made.parts["test"]
    own = [own_words(network, kind, prompt_of(part, i), 6, end) for i in range(len(part))]
    special = {i for i, token in loaded.tokenizer.added_tokens_decoder.items() if token.special} - {end}
    rows = []
    for i, said in enumerate(own):  # what the model would say itself, that with another end, and what it wouldn't
        words = [token for token in said if token not in special]  # which the text of a row never has
        expected = [words, [*words[:2], *answer_of(part, i)], answer_of(part, i)][i % 3]
        rows.append((prompt_of(part, i), expected if expected[-1:] == [end] else [*expected, end], -1))
    part, prepared = hand_over(rows, answers=[-1] * len(rows))
    prepared = dataclasses.replace(prepared, end_ids=made.end_ids, pad_id=made.pad_id)
    scored = evaluate(loaded, part, prepared, texts=texts_of(loaded, rows), generate=True)
    for row, said, (_, expected, _) in zip(scored.rows, own, rows, strict=True):
        text = said_by(loaded, said, ends=(end,))
        assert row.generated == text
        assert row.exact_match_tokens == (said == expected)
        if row.exact_match:
            assert text == StopRule().answer(row.expected)
    assert {row.exact_match_tokens for row in scored.rows} >= {False}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("generate", [False, True])
def test_results_do_not_depend_on_the_batch_size(folder: Any, kind: Kind, generate: bool) -> None:
    loaded = load(folder(kind))
    prepared = prepared_of(loaded)
    part = prepared.parts["test"]

    def run(token_budget: int) -> Evaluation:
        return evaluate(loaded, part, prepared, texts=(), generate=generate, token_budget=token_budget)

    one, many = run(1), run(100_000)
    for a, b in zip(one.rows, many.rows, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-4)
        assert a.confidence == pytest.approx(b.confidence, rel=1e-4)
        assert dataclasses.replace(a, loss=0.0, confidence=None) == dataclasses.replace(b, loss=0.0, confidence=None)


@pytest.mark.parametrize("kind", ["t5", "t5-untied", "mt5", "umt5"])
def test_padding_on_the_other_side_gives_the_same_losses(
    folder: Any, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load(folder(kind))
    prepared = prepared_of(loaded)

    def losses() -> list[float]:
        scored = evaluate(loaded, prepared.parts["test"], prepared, texts=(), generate=False, token_budget=100_000)
        return [row.loss for row in scored.rows]

    right, pad = losses(), apart.pad_prompts

    def on_the_left(prompts: Any, *, pad_id: int) -> Any:
        ids, mask = pad([prompt[::-1] for prompt in prompts], pad_id=pad_id)
        return ids[:, ::-1].copy(), mask[:, ::-1].copy()

    monkeypatch.setattr(apart, "pad_prompts", on_the_left)
    monkeypatch.setattr(apart.Apart, "_longest", lambda self, mask: mask.shape[1])
    assert losses() == pytest.approx(right, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoder_sees_each_prompt_once(folder: Any, kind: Kind) -> None:
    loaded = load(folder(kind))
    prepared, fed = prepared_of(loaded, max_new_tokens=1), []  # nothing is decoded
    network: Any = loaded.model
    hook = network.get_encoder().register_forward_pre_hook(
        lambda _m, _a, given: fed.append(int(given["attention_mask"].sum())), with_kwargs=True
    )
    evaluate(loaded, prepared.parts["test"], prepared, texts=(), generate=False)
    hook.remove()
    assert sum(fed) == int(prepared.parts["test"].prompt_lengths.sum())


@pytest.mark.parametrize("kind", ["bart", "pegasus"])
def test_an_answer_ends_where_the_decoders_positions_do(folder: Any, kind: Kind) -> None:
    loaded = dataclasses.replace(load(folder(kind)), most_positions=256)
    part, prepared = hand_over([([5, 6, 7], [8, 2 if kind == "bart" else 1], -1)], answers=[-1], max_new_tokens=400)
    end = 2 if kind == "bart" else 1
    prepared = dataclasses.replace(prepared, end_ids=(end,), pad_id=3 - end if kind == "bart" else 0)
    (row,) = evaluate(loaded, part, prepared, texts=texts_of(loaded, [([5], [8, end], -1)]), generate=True).rows
    assert row.generated is not None


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_at_some_positions_is_that_of_the_whole_forward(folder: Any, kind: Kind) -> None:
    loaded, network = load(folder(kind)), own_network(folder(kind))
    assert loaded.head.restricted
    ids, answer = torch.tensor([[5, 6, 7], [9, 8, 11]]), torch.tensor([[0, 5, 6, 9], [0, 7, 8, 5]])
    with torch.no_grad():
        some, _ = loaded.head(ids, torch.tensor([1, 6]), decoder_input_ids=answer)
        full = network(input_ids=ids, decoder_input_ids=answer).logits
    assert torch.allclose(some, torch.stack([full[0, 1], full[1, 2]]), atol=1e-4)


def test_answers_that_begin_alike_share_a_row_of_the_decoder() -> None:
    tree = build_tree([[5, 6, 1], [5], [5, 7], [8], [9, 9, 9]])
    paths = [[tree.tokens[node] for node in path] for path in branches(tree)]
    assert sorted(paths) == [[5, 6], [9, 9]]


def test_answers_of_one_token_need_the_beginning_alone() -> None:
    assert branches(build_tree([[5], [6], [7]])) == [()]
