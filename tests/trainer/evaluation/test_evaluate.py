"""The evaluator against the definitions: naive forwards, lm-evaluation-harness' rule, and plain generate."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_trainer.evaluation import answering
from finetune_trainer.evaluation.abilities import try_out
from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.evaluation.results import Evaluation
from finetune_trainer.model.load import Abilities, load_model
from finetune_trainer.prepare.prepared import TextRow
from finetune_trainer.text.stop import StopRule
from tests.support.score_kit import END, Loader, Row, hand_over, log_likelihood, plain_greedy, said_by, texts_of
from tests.support.tiny_model import ARCHITECTURES, Architecture, make_model, make_prepared

CPU = torch.device("cpu")
SHARING: tuple[Architecture, ...] = ("llama", "llama-untied", "qwen2", "qwen3", "gpt2", "gemma2")


@st.composite
def rows_and_choices(draw: st.DrawFn) -> tuple[list[Row], list[list[list[int]]]]:
    rng = random.Random(draw(st.integers(0, 10**9)))  # noqa: S311 - test data

    def tokens(low: int, high: int) -> list[int]:
        return [rng.randrange(5, 512) for _ in range(rng.randint(low, high))]

    common = tokens(0, 20)
    sets = []
    for _ in range(rng.randint(1, 2)):
        stem = tokens(1, 2)
        choices = [tokens(1, 4) if rng.random() < 0.5 else stem + tokens(1, 3) for _ in range(rng.randint(2, 6))]
        sets.append(choices)
    rows: list[Row] = []
    for _ in range(rng.randint(1, 6)):
        chosen = rng.randrange(len(sets))
        rows.append((common + tokens(1, 12), [*rng.choice(sets[chosen]), END], chosen))
    return rows, sets


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=rows_and_choices(), score_end_tokens=st.booleans())
def test_choices_and_losses_are_those_of_naive_forwards(
    model: Loader, architecture: Architecture, made: tuple[list[Row], list[list[list[int]]]], score_end_tokens: bool
) -> None:
    loaded, (rows, sets) = model(architecture), made
    part, prepared = hand_over(rows, sets, metric="ChoiceAccuracy", score_end_tokens=score_end_tokens)
    scored = evaluate(loaded, part, prepared, texts=(), generate=False)
    for result, (prompt, completion, choice_set) in zip(scored.rows, rows, strict=True):
        end = [END] if score_end_tokens else []
        likelihoods = [log_likelihood(loaded, prompt, [*c, *end]) for c in sets[choice_set]]
        best = max(likelihoods)
        assert result.chosen is not None
        assert likelihoods[result.chosen] >= best - 1e-5
        assert result.loss == pytest.approx(-log_likelihood(loaded, prompt, completion), rel=1e-4)
        assert result.tokens == len(completion)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=rows_and_choices())
def test_exact_match_and_generated_text_are_those_of_plain_generate(
    model: Loader, architecture: Architecture, made: tuple[list[Row], list[list[list[int]]]]
) -> None:
    loaded, (drawn, sets) = model(architecture), made
    greedy = [plain_greedy(loaded, prompt, 6) for prompt, _, _ in drawn]
    special = {i for i, token in loaded.tokenizer.added_tokens_decoder.items() if token.special} - {END}
    rows: list[Row] = []
    for i, (prompt, completion, choice_set) in enumerate(drawn):
        own = [token for token in greedy[i] if token not in special]  # which the text of a row never has
        expected = own if i % 2 else completion  # every other row is what the model itself would say
        if i % 4 == 2:  # or begins like that
            expected = [*own[:2], *completion]
        rows.append((prompt, expected, choice_set))
    part, prepared = hand_over(rows, sets)
    scored = evaluate(loaded, part, prepared, texts=texts_of(loaded, rows), generate=True)
    for result, own, (_, expected, _) in zip(scored.rows, greedy, rows, strict=True):
        said = said_by(loaded, own)
        assert result.exact_match == (said == StopRule().answer(result.expected) != "")
        assert result.exact_match_tokens == (own == expected)
        assert result.generated == said


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("generate", [False, True])
def test_results_do_not_depend_on_the_batch_size(model: Loader, architecture: Architecture, generate: bool) -> None:
    loaded = model(architecture)
    prepared = make_prepared(loaded.tokenizer)

    def run(token_budget: int) -> Evaluation:
        part = prepared.parts["test"]
        texts = prepared.texts["test"]
        return evaluate(loaded, part, prepared, texts=texts, generate=generate, token_budget=token_budget)

    one, many = run(1), run(100_000)
    for a, b in zip(one.rows, many.rows, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-4)
        assert a.confidence == pytest.approx(b.confidence, rel=1e-4)
        assert dataclasses.replace(a, loss=0.0, confidence=None) == dataclasses.replace(b, loss=0.0, confidence=None)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_prompts_are_shared_among_answers_where_the_architecture_allows(
    model: Loader, architecture: Architecture
) -> None:
    loaded = model(architecture)
    prepared = make_prepared(loaded.tokenizer)
    fed: list[int] = []
    embeddings = loaded.model.get_input_embeddings()
    hook = embeddings.register_forward_hook(lambda _m, args, _o: fed.append(args[0].numel()))
    loaded = try_out(loaded)  # else each evaluation tries anew
    fed.clear()
    evaluate(loaded, prepared.parts["test"], prepared, texts=(), generate=False)
    hook.remove()
    prompt_tokens = int(prepared.parts["test"].prompt_lengths.sum())
    if architecture in SHARING:
        assert loaded.abilities == Abilities(branching=True)
        assert sum(fed) < prompt_tokens  # what all prompts begin with is computed once
    else:
        assert loaded.abilities == Abilities(branching=False)
        assert sum(fed) > 5 * prompt_tokens


def test_a_row_longer_than_the_window_is_scored_answer_by_answer(model: Loader) -> None:
    loaded = model("gemma2")  # its window is 128
    rng = random.Random(1)  # noqa: S311 - test data
    prompt = [rng.randrange(5, 512) for _ in range(150)]
    choices = [[7, 8], [9, 10, 11]]
    part, prepared = hand_over([(prompt, [7, 8, END], 0)], [choices], metric="ChoiceAccuracy")
    result = evaluate(loaded, part, prepared, texts=(), generate=True).rows[0]
    assert result.chosen == int(np.argmax([log_likelihood(loaded, prompt, c) for c in choices]))
    assert result.loss == pytest.approx(-log_likelihood(loaded, prompt, [7, 8, END]), rel=1e-4)


def test_of_equally_likely_choices_the_first_is_taken(model: Loader) -> None:
    part, prepared = hand_over(
        [([5, 6, 7], [9, END], 0)], [[[9, 10], [20, 30], [20, 30], [9, 10]]], metric="ChoiceAccuracy"
    )
    result = evaluate(model("llama"), part, prepared, texts=(), generate=False).rows[0]
    assert result.chosen in (0, 1)


def test_end_tokens_decide_between_a_choice_and_its_beginning(tmp_path: Path) -> None:
    make_model(tmp_path)
    loaded, prompt = load_model(tmp_path, device=CPU, precision="Float32"), [50, 60, 70, 80]
    loaded.model.get_output_embeddings().register_forward_hook(lambda _m, _a, out: 5 * out)  # a decided model
    choices = [[40, plain_greedy(loaded, [*prompt, 40], 1)[0]], [40]]
    # An end token that the model expects after the longer choice and not after the shorter one.
    after = torch.tensor([prompt + choices[0]])
    with torch.no_grad():
        logprobs = loaded.model(after).logits[0].log_softmax(-1)
    end = int((logprobs[-1] + logprobs[-2, choices[0][1]] - logprobs[-2]).argmax())
    part, prepared = hand_over([(prompt, [40, end], 0)], [choices], metric="ChoiceAccuracy")
    without = evaluate(loaded, part, prepared, texts=(), generate=False)
    assert without.rows[0].chosen == 1  # a beginning is always likelier than the whole
    prepared = dataclasses.replace(prepared, end_ids=(end,), score_end_tokens=True)
    assert evaluate(loaded, part, prepared, texts=(), generate=False).rows[0].chosen == 0


@pytest.mark.parametrize("architecture", ["qwen3", "mistral"])
def test_a_text_that_differs_in_outer_white_space_only_is_an_exact_match(
    model: Loader, architecture: Architecture
) -> None:
    loaded, prompt = model(architecture), [50, 60, 70]
    own = [t for t in plain_greedy(loaded, prompt, 6) if t != END]
    assert said_by(loaded, own)
    blank, more = (loaded.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (" \n", "x"))
    rows: list[Row] = [(prompt, [*blank, *own, *blank, END], -1), (prompt, [*own, *more, END], -1)]
    part, prepared = hand_over(rows)
    for generate in (True, False):
        scored = evaluate(loaded, part, prepared, texts=texts_of(loaded, rows), generate=generate)
        assert [(r.exact_match, r.correct) for r in scored.rows] == [(True, True), (False, False)]
        assert [r.exact_match_tokens for r in scored.rows] == [False, False]


@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_only_rows_that_miss_are_generated(
    model: Loader, architecture: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = model(architecture)
    hit, miss = [50, 60, 70], [51, 61, 71]
    rows: list[Row] = [(hit, plain_greedy(loaded, hit, 6), -1), (miss, [80, END], -1)]
    decoded: list[int] = []
    for name in ("decode_from_cache", "generate_plain"):
        original: Any = getattr(answering, name)

        def spy(*args: Any, _original: Any = original, **settings: Any) -> Any:
            texts = _original(*args, **settings)
            decoded.append(len(texts))
            return texts

        monkeypatch.setattr(answering, name, spy)
    part, prepared = hand_over(rows)
    scored = evaluate(loaded, part, prepared, texts=texts_of(loaded, rows), generate=True)
    assert [r.exact_match for r in scored.rows] == [True, False]
    assert decoded == [1]
    evaluate(loaded, part, prepared, texts=texts_of(loaded, rows), generate=False)
    assert decoded == [1]


@pytest.mark.parametrize("architecture", ["llama", "mistral"])
@pytest.mark.parametrize("limit", [1, 2, 30])
def test_generation_stops_at_its_bound(model: Loader, architecture: Architecture, limit: int) -> None:
    loaded = model(architecture)
    rows: list[Row] = [([50 + i, 60, 70 + i], [80, 81, 82, END], -1) for i in range(7)]
    part, prepared = hand_over(rows, max_new_tokens=limit)
    scored = evaluate(loaded, part, prepared, texts=texts_of(loaded, rows), generate=True)
    for result, (prompt, _, _) in zip(scored.rows, rows, strict=True):
        assert result.generated == said_by(loaded, plain_greedy(loaded, prompt, limit))


def test_the_last_end_token_of_the_encoder_stops_a_text(model: Loader) -> None:
    loaded = model("llama")
    prompt = [50, 60, 70]
    own = plain_greedy(loaded, prompt, 6)
    part, prepared = hand_over([(prompt, [80, END], -1)])
    prepared = dataclasses.replace(prepared, end_ids=(5, own[2]))
    said = evaluate(loaded, part, prepared, texts=[TextRow(1, "", "x")], generate=True).rows[0].generated
    assert said == said_by(loaded, own[: own.index(own[2])])


def test_a_limit_scores_the_same_rows_for_every_model_and_says_which(model: Loader) -> None:
    prepared = make_prepared(model("llama").tokenizer)
    part = prepared.parts["test"]
    a, b = (
        evaluate(model(name), part, prepared, texts=prepared.texts["test"], generate=False, limit=5)
        for name in ("llama", "gpt2")
    )
    assert [r.index for r in a.rows] == [r.index for r in b.rows]
    assert a.total == 5
    for r in a.rows:
        assert r.row == part.rows[r.index]
        assert r.expected == prepared.texts["test"][r.index].completion


def test_predictions_are_choices_under_choice_accuracy_and_texts_under_exact_match(model: Loader) -> None:
    loaded = model("llama")
    prepared = make_prepared(loaded.tokenizer)
    part, texts = prepared.parts["test"], prepared.texts["test"]
    by_choice = evaluate(loaded, part, prepared, texts=texts, generate=True)
    assert all(r.predicted in prepared.choice_sets[0].texts for r in by_choice.rows)
    by_text = evaluate(loaded, part, dataclasses.replace(prepared, metric="ExactMatch"), texts=texts, generate=True)
    assert [r.predicted for r in by_text.rows] == [r.generated for r in by_choice.rows]
    assert [r.right_choice for r in by_text.rows] == [r.correct for r in by_choice.rows]


def test_beside_a_choice_stands_the_text_as_far_as_its_verdict_needed(model: Loader) -> None:
    loaded = model("llama")
    prepared = make_prepared(loaded.tokenizer)
    part, texts = prepared.parts["test"], prepared.texts["test"]
    short, whole = (evaluate(loaded, part, prepared, texts=texts, generate=all_of_it) for all_of_it in (False, True))
    assert not any(row.partial for row in whole.rows)
    assert any(row.partial for row in short.rows)
    for some, all_ in zip(short.rows, whole.rows, strict=True):
        assert (some.predicted is None, some.chosen, some.exact_match) == (False, all_.chosen, all_.exact_match)
        if some.partial:
            assert str(all_.generated).startswith(str(some.generated).rstrip("\ufffd"))
            assert not some.exact_match
        else:
            assert some.generated == all_.generated


def test_choice_accuracy_without_choices_names_the_row(model: Loader) -> None:
    part, prepared = hand_over([([5, 6], [7, END], -1)], metric="ChoiceAccuracy")
    with pytest.raises(ValueError, match="row 1 has no choices"):
        evaluate(model("llama"), part, prepared, texts=(), generate=False)


def test_a_row_without_prompt_is_named(model: Loader) -> None:
    part, prepared = hand_over([([5, 6], [7, END], -1), ([], [7, END], -1)])
    with pytest.raises(ValueError, match="row 2 has no prompt"):
        evaluate(model("llama"), part, prepared, texts=(), generate=False)


def test_progress_is_told_up_to_the_last_row(model: Loader) -> None:
    prepared = make_prepared(model("llama").tokenizer)
    told: list[tuple[int, int]] = []
    evaluate(
        model("llama"),
        prepared.parts["test"],
        prepared,
        texts=(),
        generate=False,
        progress=lambda done, total: told.append((done, total)),
        token_budget=100,
    )
    assert len(told) > 2
    assert told == sorted(told)
    assert told[-1] == (16, 16)


def test_evaluating_leaves_a_training_model_in_training(model: Loader, tmp_path: Path) -> None:
    make_model(tmp_path, architecture="gpt2")  # its dropout is on in training
    loaded = load_model(tmp_path, device=CPU, precision="Float32")
    prepared = make_prepared(loaded.tokenizer)
    loaded.model.train()
    first, second = (
        evaluate(loaded, prepared.parts["test"], prepared, texts=(), generate=False).loss for _ in range(2)
    )
    assert first == second
    assert loaded.model.training
