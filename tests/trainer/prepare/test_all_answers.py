"""Conversations: train learns every answer in one pass, validation and test score the last."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import PreTrainedTokenizerFast

from finetune_trainer.errors import StageError
from finetune_trainer.model.attention import attention_for_training
from finetune_trainer.model.load import LoadedModel, load_model
from finetune_trainer.prepare.folder import columns_of, fingerprint, load_prepared
from finetune_trainer.prepare.prepared import EncodedPart, Prepared
from finetune_trainer.training.batch import Batch, collate, common_beginning, pack
from finetune_trainer.training.packing import supports_packing
from tests.support.prepare_kit import TURN_END, Dataset, spec_of
from tests.support.tiny_model import make_model
from tests.support.tiny_tokenizer import make_tokenizer

CPU: Final = torch.device("cpu")
SPEC = spec_of({"name": "messages"})
LAST = spec_of({"name": "messages", "messages": {"learn": "Last"}})


def talk(*turns: str, **marks: dict[str, Any]) -> dict[str, Any]:
    """User and assistant in turn; ``marks`` are keys of the turn with that number, as ``t1={"weight": 0}``."""
    return {
        "messages": [
            {"role": ("user", "assistant")[i % 2], "content": text, **marks.get(f"t{i}", {})}
            for i, text in enumerate(turns)
        ]
    }


def talks(n: int = 40) -> list[dict[str, Any]]:
    return [talk(f"question {i}", "bug", "and then?", "billing", "so?", "card arrival") for i in range(n)]


def learned(prepared: Prepared, tokenizer: PreTrainedTokenizerFast) -> list[list[str]]:
    """The answers that each row of train teaches, as text, a stretch of learned tokens each."""
    part, rows = prepared.parts["train"], []
    for row in range(len(part)):
        places, answers = part.learned(row), [[]]
        for before, at in zip([places[0] - 1, *places], places, strict=False):
            if at != before + 1:
                answers.append([])
            answers[-1].append(int(part.tokens[part.offsets[row] + at]))
        rows.append([tokenizer.decode(ids) for ids in answers])
    return rows


def test_every_answer_is_learned_with_its_end_and_nothing_between(dataset: Dataset) -> None:
    prepared = dataset.prepare(talks(), SPEC)
    end = dataset.tokenizer.decode([TURN_END])
    for answers in learned(prepared, dataset.tokenizer):
        assert [text.strip() for text in answers] == [f"{a}{end}" for a in ("bug", "billing", "card arrival")]


def test_a_conversation_is_one_row_and_its_answers_are_counted(dataset: Dataset) -> None:
    prepared = dataset.prepare(talks(), SPEC)
    summary = prepared.summary
    assert len(prepared.parts["train"]) == summary.train
    assert summary.train_answers == 3 * summary.train


def test_validation_and_test_score_the_last_answer(dataset: Dataset) -> None:
    prepared = dataset.prepare(talks(), SPEC)
    for part in ("validation", "test"):
        assert len(prepared.parts[part].gaps) == 0
        assert {text.completion for text in prepared.texts[part]} == {"card arrival"}


def test_the_bound_of_a_generated_answer_is_that_of_one_answer(dataset: Dataset) -> None:
    assert dataset.prepare(talks(), SPEC).max_new_tokens == dataset.prepare(talks(), LAST).max_new_tokens


def test_the_last_alone_is_learned_where_the_spec_says_so(dataset: Dataset) -> None:
    prepared = dataset.prepare(talks(), LAST)
    assert {len(answers) for answers in learned(prepared, dataset.tokenizer)} == {1}
    assert prepared.summary.train_answers is None


def test_an_answer_of_weight_0_is_read_and_not_learned(dataset: Dataset) -> None:
    rows = [
        talk(f"question {i}", "bug", "and then?", "billing", "so?", "card arrival", t3={"weight": 0}) for i in range(40)
    ]
    prepared = dataset.prepare(rows, SPEC)
    for row, answers in enumerate(learned(prepared, dataset.tokenizer)):
        assert ["billing" in text for text in answers] == [False, False]
        part = prepared.parts["train"]
        assert "billing" in dataset.tokenizer.decode(part.tokens[part.offsets[row] : part.offsets[row + 1]])


def test_rows_of_one_answer_keep_their_fingerprint(dataset: Dataset) -> None:
    rows = [talk(f"question {i}", ("bug", "billing")[i % 2]) for i in range(40)]
    one, other = dataset.prepare(rows, SPEC), dataset.prepare(rows, LAST)
    assert one.summary.fingerprint == other.summary.fingerprint
    assert one.summary.train_answers is None


def test_what_is_learned_decides_the_fingerprint(dataset: Dataset) -> None:
    rows = talks()
    marked = [talk(*(m["content"] for m in row["messages"]), t1={"weight": 0}) for row in rows]
    assert dataset.prepare(rows, SPEC).summary.fingerprint != dataset.prepare(marked, SPEC).summary.fingerprint


def test_a_conversation_that_is_too_long_is_learned_answer_by_answer(dataset: Dataset) -> None:
    whole = dataset.prepare(talks(), SPEC)
    longest = int(whole.parts["train"].lengths.max())
    prepared = dataset.prepare(talks(), spec_of({"name": "messages"}, training={"maxLength": longest - 2}))
    assert prepared.summary.train_answers == 3 * prepared.summary.train
    assert len(prepared.parts["train"]) == 2 * prepared.summary.train  # two answers in one row, the last in its own
    assert prepared.summary.truncated == prepared.summary.rows
    answers = [text for row in learned(prepared, dataset.tokenizer) for text in row]
    assert len(answers) == 3 * prepared.summary.train


def test_a_template_that_rewrites_earlier_answers_gets_a_row_for_each(dataset: Dataset, tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path / "rewriting")
    # Earlier answers are shown in brackets, as templates that drop earlier reasoning show them otherwise.
    tokenizer.chat_template = (
        "{% for m in messages %}<|user|>{% if m.role == 'assistant' and not loop.last %}[{{ m.content }}]"
        "{% else %}{{ m.content }}{% endif %}<|end|>{% endfor %}{% if add_generation_prompt %}<|user|>{% endif %}"
    )
    rewriting = Dataset(dataset.folder / "other", tokenizer)
    rewriting.folder.mkdir()
    prepared = rewriting.prepare(talks(), SPEC)
    assert len(prepared.parts["train"]) == 3 * prepared.summary.train
    assert prepared.summary.train_answers == 3 * prepared.summary.train
    assert len(prepared.parts["train"].gaps) == 0


def gradient(loaded: LoadedModel, batch: Batch) -> torch.Tensor:
    loaded.model.zero_grad()
    logits, _ = loaded.head(batch.input_ids, batch.index, **batch.inputs)
    torch.nn.functional.cross_entropy(logits.float(), batch.targets, reduction="sum").backward()
    return torch.cat([p.grad.flatten() for p in loaded.model.parameters() if p.grad is not None])


def a_row_for_each_answer(part: EncodedPart) -> EncodedPart:
    """The same answers, each behind all that stands before it."""
    rows = []
    for row in range(len(part)):
        tokens, places = part.tokens[part.offsets[row] : part.offsets[row + 1]], part.learned(row)
        borders = [0, *(np.flatnonzero(np.diff(places) > 1) + 1), len(places)]
        stretches = [places[a:b] for a, b in itertools.pairwise(borders)]
        rows += [(tokens[: stretch[-1] + 1], int(stretch[0])) for stretch in stretches]
    nothing = np.full(len(rows), -1, np.int32)
    return EncodedPart(
        tokens=np.concatenate([tokens for tokens, _ in rows]),
        offsets=np.cumsum([0, *(len(tokens) for tokens, _ in rows)]),
        prompt_lengths=np.array([prompt for _, prompt in rows], np.int32),
        rows=np.arange(len(rows)),
        choice_set=nothing,
        answer=nothing,
        unanswerable=nothing + 1,
    )


@pytest.mark.parametrize("way", [pack, collate])
def test_one_pass_over_a_conversation_has_the_gradient_of_a_row_for_each_answer(
    dataset: Dataset, tmp_path: Path, way: Callable[..., Batch]
) -> None:
    make_model(tmp_path / "model")
    loaded = load_model(tmp_path / "model", device=CPU, precision="Float32")
    whole = dataset.prepare(talks(20), SPEC).parts["train"]
    apart = a_row_for_each_answer(whole)
    assert len(apart) == 3 * len(whole)
    with attention_for_training(loaded.model):
        assert supports_packing(loaded)
        one, many = (gradient(loaded, way(part, np.arange(len(part)), device=CPU)) for part in (whole, apart))
    torch.testing.assert_close(one, many, rtol=1e-3, atol=1e-4)


def test_a_shared_beginning_is_left_out_of_rows_with_several_answers(dataset: Dataset) -> None:
    whole = dataset.prepare(talks(20), SPEC).parts["train"]
    skip = common_beginning(whole)
    assert skip > 0
    rows = np.arange(len(whole))
    skipped, full = collate(whole, rows, device=CPU, skip=skip), collate(whole, rows, device=CPU)
    assert skipped.targets.tolist() == full.targets.tolist()
    # What predicts a target is the same token, whether the beginning stands before it or not.
    assert skipped.input_ids.flatten()[skipped.index].tolist() == full.input_ids.flatten()[full.index].tolist()


def test_what_is_learned_survives_being_stored(dataset: Dataset) -> None:
    prepared = dataset.prepare(talks(), SPEC)
    gaps = prepared.parts["train"].gaps.reshape(-1, 3)
    assert len(gaps) == 2 * len(prepared.parts["train"])
    assert load_prepared(dataset.out).parts["train"].gaps.tolist() == gaps.flatten().tolist()


def test_the_fingerprint_changes_with_any_gap(dataset: Dataset) -> None:
    prepared = dataset.prepare(talks(), SPEC)
    part = prepared.parts["train"]
    for place in range(3):
        changed = part.gaps.copy()
        changed[place] += 1
        other = {**prepared.parts, "train": replace(part, gaps=changed)}
        found = fingerprint(columns_of(other), prepared.choice_sets, prepared.end_ids)
        assert found != prepared.summary.fingerprint


def test_gaps_that_are_not_whole_are_told(dataset: Dataset) -> None:
    dataset.prepare(talks(), SPEC)
    arrays = load_file(dataset.out / "rows.safetensors")
    arrays["train.gaps"] = arrays["train.gaps"][:-1]
    save_file(arrays, dataset.out / "rows.safetensors")
    with pytest.raises(StageError, match="the gaps of train are not whole"):
        load_prepared(dataset.out)
