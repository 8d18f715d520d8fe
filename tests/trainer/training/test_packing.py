"""Rows that stand one behind the other train a model exactly as padded ones do, and models that mix them are padded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from finetune_trainer.model import attention
from finetune_trainer.model.attention import attention_for_training
from finetune_trainer.model.load import LoadedModel, load_model
from finetune_trainer.training.batch import Batch, collate, pack
from finetune_trainer.training.loop import train
from finetune_trainer.training.packing import supports_packing
from finetune_trainer.training.plan import BatchLimits, Hyperparameters, micro_batches
from tests.support.tiny_model import Architecture, make_model, make_prepared

CPU = torch.device("cpu")
ROWS = np.array([5, 0, 9, 3])


def load(folder: Path, architecture: Architecture = "llama") -> LoadedModel:
    make_model(folder, architecture=architecture, dtype=torch.bfloat16)
    return load_model(folder, device=CPU, precision="BFloat16")


def gradients(loaded: LoadedModel, batch: Batch) -> tuple[float, torch.Tensor]:
    loaded.model.zero_grad()
    logits, _ = loaded.head(batch.input_ids, batch.index, **batch.inputs)
    loss = functional.cross_entropy(logits.float(), batch.targets, reduction="sum")
    loss.backward()
    found = [p.grad.float().flatten() for p in loaded.model.parameters() if p.grad is not None]
    return float(loss.detach()), torch.cat(found)


def test_a_pack_holds_the_tokens_and_targets_of_its_rows_and_no_padding(tmp_path: Path) -> None:
    part = make_prepared(load(tmp_path).tokenizer).parts["train"]
    batch = pack(part, ROWS, device=CPU)
    tokens = [part.tokens[part.offsets[row] : part.offsets[row + 1]] for row in ROWS]
    prompts = part.prompt_lengths[ROWS]
    assert batch.input_ids.tolist() == [[int(t) for row in tokens for t in row[:-1]]]
    assert batch.targets.tolist() == [int(t) for row, n in zip(tokens, prompts, strict=True) for t in row[n:]]
    assert batch.inputs["row_lengths"] == tuple(len(row) - 1 for row in tokens)
    assert batch.inputs["position_ids"].tolist() == [[i for row in tokens for i in range(len(row) - 1)]]
    # What predicts a target stands one position before it in its own row.
    flat = batch.input_ids[0]
    before = [int(row[n - 1 + i]) for row, n in zip(tokens, prompts, strict=True) for i in range(len(row) - n)]
    assert flat[batch.index].tolist() == before


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize("longest", [10**6, 100], ids=["own products", "rows too long for them"])
def test_loss_and_gradient_are_those_of_padded_rows(
    tmp_path: Path, architecture: Architecture, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "MOST_SCORES_OF_A_HEAD", longest)
    loaded = load(tmp_path, architecture)
    part = make_prepared(loaded.tokenizer).parts["train"]
    with attention_for_training(loaded.model):
        assert supports_packing(loaded)
        packed, packed_gradient = gradients(loaded, pack(part, ROWS, device=CPU))
    padded, padded_gradient = gradients(loaded, collate(part, ROWS, device=CPU))
    assert packed == pytest.approx(padded, rel=0.01)
    assert float((packed_gradient - padded_gradient).norm()) < 0.03 * float(padded_gradient.norm())


@pytest.mark.parametrize("architecture", ["mamba", "bloom"])
def test_a_model_that_mixes_packed_rows_is_padded(tmp_path: Path, architecture: Architecture) -> None:
    loaded = load(tmp_path, architecture)
    with attention_for_training(loaded.model):
        assert not supports_packing(loaded)


def test_a_model_that_looks_at_the_row_before_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(tmp_path)
    whole = attention._masks_of_rows

    def leaking(mask: torch.Tensor, lengths: tuple[int, ...]) -> list[torch.Tensor]:
        return [torch.zeros_like(block) for block in whole(mask, lengths)]

    with attention_for_training(loaded.model):
        assert supports_packing(loaded)
        monkeypatch.setattr(attention, "_masks_of_rows", leaking)
        assert not supports_packing(loaded)


def test_rows_are_padded_where_that_attention_is_not_used(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    assert not supports_packing(loaded)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral"])
def test_in_32_bits_packed_rows_have_the_gradient_of_padded_ones(tmp_path: Path, architecture: Architecture) -> None:
    make_model(tmp_path, architecture=architecture)
    loaded = load_model(tmp_path, device=CPU, precision="Float32")
    part = make_prepared(loaded.tokenizer).parts["train"]
    with attention_for_training(loaded.model):
        assert supports_packing(loaded)
        packed, packed_gradient = gradients(loaded, pack(part, ROWS, device=CPU))
    padded, padded_gradient = gradients(loaded, collate(part, ROWS, device=CPU))
    assert packed == pytest.approx(padded, rel=1e-5)
    torch.testing.assert_close(packed_gradient, padded_gradient, rtol=1e-4, atol=1e-5)


def test_a_training_with_packed_rows_learns_what_one_with_padded_rows_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_trainer.training.loop.shared_beginning", lambda *_: 0)
    parameters = Hyperparameters(method="Full", epochs=4, batch_size=16, learning_rate="1e-2", seed=3, lora=None)
    packs, losses = [], []
    monkeypatch.setattr("finetune_trainer.training.loop.pack", lambda *a, **k: packs.append(1) or pack(*a, **k))
    for packed in (True, False):
        loaded = load(tmp_path)
        if not packed:
            monkeypatch.setattr("finetune_trainer.training.loop.supports_packing", lambda _: False)
        losses.append(train(loaded, make_prepared(loaded.tokenizer), parameters).losses)
    assert len(packs) == len(losses[0])  # one for each step of the first
    assert losses[0][-1] < 0.5 * losses[0][0]
    assert losses[0] == pytest.approx(losses[1], abs=0.1)


def test_packs_are_filled_by_their_real_tokens(tmp_path: Path) -> None:
    lengths = np.array([100, 10, 10, 10, 10])
    limits = BatchLimits(tokens=140, labels=999, overhead=50)
    rows = np.arange(5)
    assert [len(b) for b in micro_batches(rows, lengths, lengths, limits, packed=True)] == [5]
    assert [len(b) for b in micro_batches(rows, lengths, lengths, limits)] == [1, 4]


def test_a_row_without_completion_is_named(tmp_path: Path) -> None:
    part = make_prepared(load(tmp_path).tokenizer).parts["train"]
    part.prompt_lengths[3] = part.lengths[3]
    with pytest.raises(ValueError, match="row 4 has no prompt or no completion"):
        pack(part, ROWS, device=CPU)


def test_a_bit_that_comes_from_the_row_before_is_enough_to_pad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(tmp_path)
    monkeypatch.setattr("finetune_trainer.training.packing.ROUNDING", 1e9)
    with attention_for_training(loaded.model):
        assert supports_packing(loaded)
        monkeypatch.setattr(
            "finetune_trainer.training.packing.packed_inputs", lambda *_: {}
        )  # one long row for the model
        assert not supports_packing(loaded)
