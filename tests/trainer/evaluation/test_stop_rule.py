"""Exact match under the stop rule: the same for a model that stops and for one that answers right and goes on."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from finetune_trainer.evaluation import answering
from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.evaluation.results import Evaluation
from finetune_trainer.model.load import LoadedModel, load_model
from finetune_trainer.prepare.prepared import EncodedPart, Prepared, TextRow
from tests.support.tiny_model import ARCHITECTURES, Architecture, make_model, make_prepared

CPU = torch.device("cpu")
END = 1
Talker = Callable[[Architecture], LoadedModel]


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Talker:
    """Models that write letters, blanks and line ends, and never an end token: each answer goes on to its bound."""

    @cache
    def load(architecture: Architecture) -> LoadedModel:
        folder = tmp_path_factory.mktemp(architecture)
        make_model(folder, architecture=architecture, seed=5)
        loaded = load_model(folder, device=CPU, precision="Float32")
        texts = [str(loaded.tokenizer.decode([i])) for i in range(512)]
        allowed = [text.strip("\n").isascii() and text.strip().replace(" ", "a").isalpha() for text in texts]
        allowed = [a or text in ("\n", "\n\n") for a, text in zip(allowed, texts, strict=True)]
        bias = torch.where(torch.tensor(allowed), 0.0, -1e4)
        head: Any = loaded.model.get_output_embeddings()
        head.register_forward_hook(lambda _m, _a, out: out + bias)
        # What it says often, but to nobody first, becomes its line end.
        said = [own_tokens(loaded, prompt, 16) for prompt in prompts(10)]
        counts = Counter(token for tokens in said for token in set(tokens[1:]) - {tokens[0]})
        if not counts:  # says one thing only
            return loaded
        (often, _), line_end = counts.most_common(1)[0], texts.index("\n")
        swapped = torch.arange(512)
        swapped[[often, line_end]] = swapped[[line_end, often]]
        head.register_forward_hook(lambda _m, _a, out: out[..., swapped])
        return loaded

    return load


def prompts(n: int) -> list[list[int]]:
    return [[50 + i, 60, 70 + 2 * i, 80 - i, 90] for i in range(n)]


def own_tokens(loaded: LoadedModel, prompt: Sequence[int], limit: int) -> list[int]:
    """What the model writes, by one full forward for each token."""
    ids = list(prompt)
    for _ in range(limit):
        with torch.no_grad():
            ids.append(int(loaded.model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def own_text(loaded: LoadedModel, prompt: Sequence[int], limit: int) -> str:
    return str(loaded.tokenizer.decode(own_tokens(loaded, prompt, limit), skip_special_tokens=True))


def hand_over(
    loaded: LoadedModel, asked: Sequence[Sequence[int]], expected: Sequence[str], stop: tuple[str, ...], limit: int
) -> tuple[EncodedPart, Prepared, list[TextRow]]:
    completions = [[*loaded.tokenizer(text, add_special_tokens=False)["input_ids"], END] for text in expected]
    tokens = [t for p, c in zip(asked, completions, strict=True) for t in [*p, *c]]
    base = make_prepared(loaded.tokenizer, choices=None)
    part = dataclasses.replace(
        base.parts["test"],
        tokens=np.array(tokens, dtype=np.int32),
        offsets=np.cumsum([0, *(len(p) + len(c) for p, c in zip(asked, completions, strict=True))]).astype(np.int64),
        prompt_lengths=np.array([len(p) for p in asked], dtype=np.int32),
        **{
            name: np.resize(getattr(base.parts["test"], name), len(asked))
            for name in (f.name for f in dataclasses.fields(base.parts["test"]))
            if name not in ("tokens", "offsets", "prompt_lengths")
        },
    )
    prepared = dataclasses.replace(base, stop=stop, max_new_tokens=limit)
    return part, prepared, [TextRow(i + 1, "", text) for i, text in enumerate(expected)]


def first_line(text: str) -> str:
    return text.strip().split("\n")[0].strip()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("whole", [True, False])
def test_a_model_that_answers_right_and_goes_on_is_exact_under_the_line_rule(
    talker: Talker, architecture: Architecture, whole: bool
) -> None:
    loaded, asked = talker(architecture), prompts(10)
    texts = [own_text(loaded, prompt, 16) for prompt in asked]
    assert architecture in ("bloom", "mamba") or any("\n" in text.strip() for text in texts)
    expected = [first_line(text) if i % 3 else first_line(text) + "x" for i, text in enumerate(texts)]
    part, prepared, rows = hand_over(loaded, asked, expected, ("\n",), 16)
    scored = evaluate(loaded, part, prepared, texts=rows, generate=whole)
    assert [r.exact_match for r in scored.rows] == [bool(i % 3) for i in range(10)]
    assert not any(r.exact_match_tokens for r in scored.rows)  # it never writes an end token
    assert [r.generated for r in scored.rows] == ([first_line(t) for t in texts] if whole else [None] * 10)


@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_without_a_stop_text_only_the_whole_text_is_exact(talker: Talker, architecture: Architecture) -> None:
    loaded, asked = talker(architecture), prompts(6)
    texts = [own_text(loaded, prompt, 12) for prompt in asked]
    part, prepared, rows = hand_over(loaded, asked, [t if i % 2 else t[:-2] for i, t in enumerate(texts)], (), 12)
    for whole in (True, False):
        scored = evaluate(loaded, part, prepared, texts=rows, generate=whole)
        assert [r.exact_match for r in scored.rows] == [bool(i % 2) for i in range(6)]


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "mistral"])
@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_stop_text_counts_wherever_tokens_begin_and_end(
    talker: Talker, architecture: Architecture, length: int
) -> None:
    loaded = talker(architecture)
    for prompt in prompts(4):
        text = own_text(loaded, prompt, 20)
        for start in (3, 8, 13):
            stop = text[start : start + length]
            expected = text[: text.find(stop)].strip()
            if not stop.strip() or not expected:
                continue
            part, prepared, rows = hand_over(loaded, [prompt, prompt], [expected, expected + "y"], (stop,), 20)
            for whole in (True, False):
                scored = evaluate(loaded, part, prepared, texts=rows, generate=whole)
                assert [r.exact_match for r in scored.rows] == [True, False]
            assert evaluate(loaded, part, prepared, texts=rows, generate=True).rows[0].generated == expected


@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_decoding_ends_soon_after_the_stop_text(
    talker: Talker, architecture: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, asked = talker(architecture), prompts(8)
    lengths: list[int] = []
    for name in ("decode_from_cache", "generate_plain"):
        original: Any = getattr(answering, name)

        def spy(*args: Any, _original: Any = original, **settings: Any) -> Any:
            said = _original(*args, **settings)
            lengths.extend(len(tokens) for tokens in said)
            return said

        monkeypatch.setattr(answering, name, spy)
    stop = sorted(set(own_text(loaded, asked[0], 6)[3:]))[-1]
    texts = [own_text(loaded, prompt, 100) for prompt in asked]
    part, prepared, rows = hand_over(loaded, asked, ["q"] * 8, (stop,), 100)
    scored = evaluate(loaded, part, prepared, texts=rows, generate=True)
    assert [r.generated for r in scored.rows] == [t.split(stop)[0].strip() for t in texts]
    longest = max(len(t.split(stop)[0]) if stop in t else 100 for t in texts)
    assert max(lengths, default=0) <= min(100, longest + 1 + 8)


def test_every_metric_is_told_for_both_primaries(talker: Talker) -> None:
    loaded = talker("llama")
    base = make_prepared(loaded.tokenizer)
    part, texts = base.parts["test"], base.texts["test"]

    def names(scored: Evaluation) -> dict[str, str]:
        return {s.name: s.score for s in scored.secondary}

    by_choice = evaluate(loaded, part, base, texts=texts, generate=False)
    by_text = evaluate(loaded, part, dataclasses.replace(base, metric="ExactMatch"), texts=texts, generate=True)
    assert list(names(by_choice)) == ["ExactMatch", "ChoiceAccuracyNorm", "MacroF1", "ECE"]
    assert list(names(by_text)) == ["ChoiceAccuracy", "TokenF1", "ExactMatchTokens"]
    assert names(by_choice)["ExactMatch"] == by_text.score().score
    assert names(by_text)["ChoiceAccuracy"] == by_choice.score().score


def test_an_expected_answer_that_goes_on_after_the_stop_text_is_never_matched(
    talker: Talker, caplog: pytest.LogCaptureFixture
) -> None:
    loaded, (prompt,) = talker("llama"), prompts(1)
    first = first_line(own_text(loaded, prompt, 16))
    part, prepared, rows = hand_over(loaded, [prompt], [f"{first}\nmore"], ("\n",), 16)
    scored = evaluate(loaded, part, prepared, texts=rows, generate=True)
    assert scored.rows[0].generated == first
    assert not scored.rows[0].exact_match
    assert "1 of 1 expected answers" in caplog.text


def test_an_answer_with_characters_that_the_tokenizer_does_not_know_is_never_matched(talker: Talker) -> None:
    loaded, (prompt,) = talker("llama"), prompts(1)
    text = own_text(loaded, prompt, 8)
    part, prepared, rows = hand_over(loaded, [prompt], [text], (), 8)
    assert evaluate(loaded, part, prepared, texts=rows, generate=True).rows[0].exact_match
    unknown = loaded.tokenizer.convert_ids_to_tokens([int(part.tokens[len(prompt)])])[0]
    loaded.tokenizer.unk_token = unknown
    try:
        assert not evaluate(loaded, part, prepared, texts=rows, generate=True).rows[0].exact_match
    finally:
        loaded.tokenizer.unk_token = None
