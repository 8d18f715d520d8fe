"""The loop: what it optimises, what it keeps, and that it is the same every time."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune_api.job import LoRA
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.evaluation.abilities import try_out
from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.model.device import Precision
from finetune_trainer.model.load import LoadedModel
from finetune_trainer.model.lora import add_lora
from finetune_trainer.prepare.prepared import EncodedPart, Prepared
from finetune_trainer.training import beginning
from finetune_trainer.training import loop as train_module
from finetune_trainer.training.batch import collate, common_beginning
from finetune_trainer.training.loop import train
from finetune_trainer.training.optimizer import MasterAdamW
from finetune_trainer.training.outcome import TrainOutcome
from finetune_trainer.training.plan import BatchLimits
from tests.support.tiny_model import ARCHITECTURES, Architecture, learnable_rows, make_model, make_prepared
from tests.support.train_kit import CPU, FULL, Recorder, load, without_validation


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    make_model(folder)
    return folder


@pytest.mark.parametrize("architecture", ["llama", "llama-untied", "qwen2", "qwen3"])
def test_a_full_fine_tune_learns_the_rows(tmp_path: Path, architecture: Architecture) -> None:
    make_model(tmp_path, architecture=architecture)
    loaded = load(tmp_path)
    prepared = make_prepared(loaded.tokenizer)
    part = prepared.parts["test"]
    before = evaluate(loaded, part, prepared, texts=(), generate=False)
    train(loaded, prepared, dataclasses.replace(FULL, epochs=4, batch_size=4))
    after = evaluate(loaded, part, prepared, texts=(), generate=False)
    assert before.value < 0.5
    assert after.value > 0.9
    assert after.loss < 0.2 * before.loss


@pytest.mark.parametrize("precision", ["Float32", "BFloat16"])
def test_lora_learns_the_rows_and_leaves_the_base_alone(llama: Path, precision: Precision) -> None:
    loaded = load(llama, precision)
    prepared = make_prepared(loaded.tokenizer)
    loaded = add_lora(loaded, LoRA(rank=8), seed=1)
    base = {n: p.clone() for n, p in loaded.model.named_parameters() if not p.requires_grad}
    before = evaluate(loaded, prepared.parts["test"], prepared, texts=(), generate=False)
    train(loaded, prepared, dataclasses.replace(FULL, method="LoRA", epochs=12, learning_rate="2e-2", batch_size=4))
    after = evaluate(loaded, prepared.parts["test"], prepared, texts=(), generate=False)
    assert after.loss < 0.5 * before.loss
    assert after.value > before.value
    assert all(torch.equal(p, base[n]) for n, p in loaded.model.named_parameters() if n in base)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_loss_is_that_of_the_library_over_completion_tokens(tmp_path: Path, architecture: Architecture) -> None:
    make_model(tmp_path, architecture=architecture)
    loaded = load(tmp_path)
    part = make_prepared(loaded.tokenizer).parts["train"]
    rows = np.array([3, 11, 20, 40])
    batch = collate(part, rows, device=CPU)
    with torch.no_grad():
        logits, _ = loaded.head(batch.input_ids, batch.index)
        total = float(torch.nn.functional.cross_entropy(logits, batch.targets, reduction="sum"))
        expected = 0.0
        for row in rows:
            ids = torch.tensor(part.tokens[part.offsets[row] : part.offsets[row + 1]].astype(np.int64))[None]
            labels = ids.clone()
            labels[:, : part.prompt_lengths[row]] = -100
            mean = loaded.model(input_ids=ids, labels=labels).loss
            expected += float(mean) * int(part.completion_lengths[row])
    assert len(batch.targets) == part.completion_lengths[rows].sum()
    assert total == pytest.approx(expected, rel=1e-5)


def first_gradient(folder: Path, monkeypatch: pytest.MonkeyPatch, limits: BatchLimits | None = None) -> torch.Tensor:
    """Gradient of the first optimizer step."""
    gradients: list[torch.Tensor] = []

    def keep(self: Any, _rate: float, *, max_norm: float) -> torch.Tensor:
        gradients.append(torch.cat([g.flatten() for g in self.gradients.values()]))
        raise KeyboardInterrupt  # one step is enough

    monkeypatch.setattr(MasterAdamW, "step", keep)
    loaded = load(folder)
    with pytest.raises(KeyboardInterrupt):
        train(loaded, make_prepared(loaded.tokenizer), FULL, limits=limits)
    assert float(gradients[0].norm()) > 0.01
    return gradients[0]


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "mistral", "bloom"])
def test_the_gradient_does_not_depend_on_micro_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: Architecture
) -> None:
    make_model(tmp_path, architecture=architecture)
    whole = first_gradient(tmp_path, monkeypatch, BatchLimits(tokens=10**6, labels=10**6, overhead=10**6))
    single = first_gradient(tmp_path, monkeypatch, BatchLimits(tokens=1, labels=1))
    torch.testing.assert_close(whole, single, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "llama-untied", "qwen2", "qwen3", "gemma2"])
def test_sharing_what_all_prompts_begin_with_changes_no_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: Architecture
) -> None:
    make_model(tmp_path, architecture=architecture)
    shared = first_gradient(tmp_path, monkeypatch)
    monkeypatch.setattr(beginning, "SHARED_SHARE", 2)  # never worth it
    apart = first_gradient(tmp_path, monkeypatch)
    torch.testing.assert_close(shared, apart, rtol=1e-4, atol=1e-5)


def tokens_fed_in_an_epoch(loaded: LoadedModel, prepared: Prepared) -> int:
    """Tokens that the model is fed, each optimizer step being one micro-batch."""
    fed: list[int] = []
    limits = BatchLimits(tokens=2048, labels=2048, overhead=256)
    loaded = try_out(loaded)
    loaded.model.get_input_embeddings().register_forward_hook(lambda _m, args, _o: fed.append(args[0].numel()))
    train(loaded, prepared, dataclasses.replace(FULL, epochs=1), limits=limits)
    return sum(fed)


@pytest.mark.parametrize(
    ("architecture", "dropout", "shares"),
    [
        ("llama", None, True),
        ("llama", "0.0", True),
        ("llama", "0.1", False),  # of the adapters
        ("gpt2", None, False),  # has dropout of its own
        ("mistral", None, False),  # its window is shorter than the rows
    ],
)
def test_what_all_prompts_begin_with_is_fed_once_a_batch_where_that_is_exact(
    tmp_path: Path, architecture: Architecture, dropout: str | None, shares: bool
) -> None:
    make_model(tmp_path, architecture=architecture)
    loaded = load(tmp_path)
    if dropout is not None:
        loaded = add_lora(loaded, LoRA(dropout=dropout), seed=1)
    prepared = without_validation(make_prepared(loaded.tokenizer))
    fed, tokens = tokens_fed_in_an_epoch(loaded, prepared), int(prepared.parts["train"].lengths.sum())
    assert (fed < 0.6 * tokens) == shares
    assert (fed > 0.9 * tokens) != shares


def test_rows_with_nothing_in_common_are_fed_whole(llama: Path) -> None:
    loaded = load(llama)
    rows: Any = [
        (f"{word} {prompt}", label) for word, (prompt, label) in zip(["A", "The"] * 8, learnable_rows(16), strict=True)
    ]
    prepared = make_prepared(loaded.tokenizer, {"train": rows, "validation": rows, "test": rows})
    part = prepared.parts["train"]
    assert common_beginning(part) == 0
    assert tokens_fed_in_an_epoch(loaded, without_validation(prepared)) >= int((part.lengths - 1).sum())


@pytest.mark.parametrize(
    ("prompts", "common"),
    [
        ([[5, 6, 7, 8], [5, 6, 7, 9]], 3),
        ([[5, 6, 7, 8], [5, 6]], 1),  # the last token of a prompt predicts the answer and stays with it
        ([[5, 6], [5, 6]], 1),
        ([[5, 6], [6, 6]], 0),
        ([[5], [5]], 0),
        ([[5, 6, 7]], 2),
    ],
)
def test_the_common_beginning_ends_before_the_last_token_of_any_prompt(prompts: list[list[int]], common: int) -> None:
    part = EncodedPart(
        tokens=np.array([t for p in prompts for t in [*p, 1]], dtype=np.int32),
        offsets=np.cumsum([0, *(len(p) + 1 for p in prompts)]).astype(np.int64),
        prompt_lengths=np.array([len(p) for p in prompts], dtype=np.int32),
        rows=np.arange(len(prompts)),
        choice_set=np.full(len(prompts), -1, dtype=np.int32),
        answer=np.full(len(prompts), -1, dtype=np.int32),
        unanswerable=np.zeros(len(prompts), dtype=np.int32),
    )
    assert common_beginning(part) == common


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])  # gpt2 has dropout
@pytest.mark.parametrize("method", ["Full", "LoRA"])
def test_the_same_seed_gives_the_same_losses_to_the_bit(
    tmp_path: Path, architecture: Architecture, method: str
) -> None:
    make_model(tmp_path, architecture=architecture)

    def run(seed: int) -> TrainOutcome:
        loaded = load(tmp_path)
        torch.rand(int(seed))  # whatever was drawn before must not matter
        if method == "LoRA":
            loaded = add_lora(loaded, LoRA(dropout="0.1"), seed=1)
        return train(loaded, make_prepared(loaded.tokenizer), dataclasses.replace(FULL, seed=seed))

    first, second, other = run(7), run(7), run(8)
    assert first.losses == second.losses
    assert first.validation == second.validation
    assert first.losses != other.losses


def test_dropout_differs_from_step_to_step(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    original = torch.manual_seed

    def spy(seed: int) -> torch.Generator:
        seeds.append(seed)
        return original(seed)

    monkeypatch.setattr(torch, "manual_seed", spy)
    loaded = load(llama)
    train(loaded, make_prepared(loaded.tokenizer), FULL)
    assert len(set(seeds)) == len(seeds) == 8


def test_short_weights_are_trained_by_long_ones(llama: Path) -> None:
    """Updates far below half the last bit of a bfloat16 weight still add up."""
    loaded = load(llama, "BFloat16")
    prepared = make_prepared(loaded.tokenizer)
    frozen = loaded.model.state_dict()["model.layers.0.mlp.up_proj.weight"].clone()
    outcome = train(loaded, without_validation(prepared), dataclasses.replace(FULL, epochs=10, learning_rate="5e-5"))
    moved = outcome.weights["model.layers.0.mlp.up_proj.weight"] - frozen.float()
    assert 1e-4 < float(moved.abs().max()) < 4e-3
    assert float((moved != 0).float().mean()) > 0.9
    assert outcome.losses[-1] < outcome.losses[0]


def test_bfloat16_learns_like_float32(llama: Path) -> None:
    losses = []
    precisions: tuple[Precision, ...] = ("Float32", "BFloat16")
    for precision in precisions:
        loaded = load(llama, precision)
        losses.append(train(loaded, make_prepared(loaded.tokenizer), FULL).losses)
    assert losses[0][0] == pytest.approx(losses[1][0], rel=0.02)
    assert losses[0][-1] == pytest.approx(losses[1][-1], rel=0.15)


def test_the_optimizer_is_adamw_with_clipping() -> None:
    torch.manual_seed(0)
    ours = torch.nn.Parameter(torch.randn(5, 3))
    theirs = torch.nn.Parameter(ours.detach().clone())
    optimizer = MasterAdamW({"w": ours})
    reference = torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.0)
    for i in range(5):
        gradient = torch.randn(5, 3) * (10 if i % 2 else 0.01)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        optimizer.collect()
        norm = optimizer.step(0.1, max_norm=1.0)
        assert float(norm) == pytest.approx(float(gradient.norm()))
        torch.nn.utils.clip_grad_norm_([theirs], 1.0)
        reference.step()
        torch.testing.assert_close(ours, theirs)
        assert ours.grad is None


def test_gradients_of_micro_batches_are_summed_in_32_bits() -> None:
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
    optimizer = MasterAdamW({"w": weight})
    for gradient in (1.0, *[2.0**-10] * 8):  # each too small to change 1.0 in bfloat16
        weight.grad = torch.full((1,), gradient, dtype=torch.bfloat16)
        optimizer.collect()
    assert float(optimizer.step(0.1, max_norm=1e9)) == 1 + 8 * 2.0**-10


def test_the_weights_with_the_lowest_validation_loss_are_kept(llama: Path) -> None:
    loaded = load(llama)
    prepared = make_prepared(loaded.tokenizer)
    # The validation rows contradict the training rows, so learning makes their loss rise again.
    wrong = [(prompt, "sports" if label != "sports" else "arts") for prompt, label in learnable_rows(16, seed=9)]
    contrary = make_prepared(loaded.tokenizer, {"train": learnable_rows(64), "validation": wrong, "test": wrong})
    outcome = train(loaded, contrary, dataclasses.replace(FULL, epochs=6))
    losses = [float(p.loss) for p in outcome.validation]
    assert outcome.best_epoch == losses.index(min(losses)) + 1 < 6
    kept = evaluate(loaded, contrary.parts["validation"], prepared, texts=(), generate=False)
    assert kept.loss == pytest.approx(min(losses), abs=1e-4)
    assert not outcome.stopped_early


def test_early_stopping_waits_as_long_as_it_was_told(llama: Path) -> None:
    wrong = [(prompt, "sports" if label != "sports" else "arts") for prompt, label in learnable_rows(16, seed=9)]
    rows: Any = {"train": learnable_rows(64), "validation": wrong, "test": wrong}
    epochs = []
    for patience in (1, 2):
        loaded = load(llama)
        outcome = train(
            loaded, make_prepared(loaded.tokenizer, rows), dataclasses.replace(FULL, epochs=12, patience=patience)
        )
        assert outcome.stopped_early
        assert len(outcome.validation) == outcome.best_epoch + patience
        assert outcome.steps == 4 * len(outcome.validation)
        epochs.append(outcome.best_epoch)
    assert epochs[0] == epochs[1]


def test_without_validation_rows_the_last_weights_are_kept(llama: Path) -> None:
    loaded = load(llama)
    prepared = without_validation(make_prepared(loaded.tokenizer))
    outcome = train(loaded, prepared, FULL)
    assert outcome.validation == ()
    assert outcome.best_epoch == 2
    assert outcome.losses[-1] < outcome.losses[0]


def test_what_was_logged_adds_up(llama: Path) -> None:
    loaded = load(llama)
    prepared, seen = make_prepared(loaded.tokenizer), Recorder()
    outcome = train(loaded, prepared, FULL, observer=seen)
    part = prepared.parts["train"]
    assert [e.step for e in seen.entries] == list(range(1, 9))
    assert [e.loss for e in seen.entries] == pytest.approx(list(outcome.losses))
    assert seen.entries[-1].epoch == 2.0
    assert seen.entries[1].epoch == 0.5
    assert {e.total_steps for e in seen.entries} == {8}
    assert all(0 <= e.token_accuracy <= 1 and e.tokens_per_second > 0 and e.grad_norm > 0 for e in seen.entries)
    assert seen.entries[0].learning_rate == pytest.approx(1e-2)
    assert seen.entries[-1].learning_rate < 1e-3
    assert tuple(seen.points) == outcome.validation
    assert [(p.epoch, p.step) for p in seen.points] == [(1, 4), (2, 8)]
    assert outcome.tokens == 2 * int(part.lengths.sum())
    assert outcome.supervised_tokens == 2 * int((part.lengths - part.prompt_lengths).sum())
    assert outcome.attention_pairs == 2 * int((part.lengths**2).sum())
    assert outcome.seconds > 0
    assert outcome.peak_memory_bytes > 0


def test_log_intervals_of_several_steps_lose_nothing(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every, third = Recorder(), Recorder()
    loaded = load(llama)
    single = train(loaded, make_prepared(loaded.tokenizer), FULL, observer=every)
    monkeypatch.setattr(train_module, "LOG_STEPS", {"cpu": 3})
    loaded = load(llama)
    grouped = train(loaded, make_prepared(loaded.tokenizer), FULL, observer=third)
    assert grouped.losses == single.losses
    assert [e.step for e in third.entries] == [3, 4, 6, 8]
    assert [e.epoch for e in third.entries] == [0.75, 1.0, 1.5, 2.0]


def test_divergence_names_the_step_and_the_learning_rate(llama: Path) -> None:
    loaded = load(llama)
    with torch.no_grad():
        next(loaded.model.parameters()).fill_(math.inf)
    with pytest.raises(StageError, match=r"at step 1 of 8.*learningRate 1e-2") as error:
        train(loaded, make_prepared(loaded.tokenizer), FULL)
    assert error.value.reason is Reason.DIVERGED


@pytest.mark.parametrize("step", [1, 3, 6])
@pytest.mark.parametrize("interval", [1, 3])
def test_the_step_that_diverged_is_named_whatever_the_log_interval(
    llama: Path, monkeypatch: pytest.MonkeyPatch, step: int, interval: int
) -> None:
    loaded = load(llama)
    original, calls = MasterAdamW.step, []

    def spoil(self: MasterAdamW, rate: float, *, max_norm: float) -> torch.Tensor:
        calls.append(rate)
        norm = original(self, rate, max_norm=max_norm)
        return norm * math.nan if len(calls) == step else norm

    monkeypatch.setattr(MasterAdamW, "step", spoil)
    monkeypatch.setattr(train_module, "LOG_STEPS", {"cpu": interval})
    with pytest.raises(StageError, match=f"at step {step} of 8") as error:
        train(loaded, make_prepared(loaded.tokenizer), FULL)
    assert error.value.reason is Reason.DIVERGED


def test_a_full_gpu_during_training_is_reported_as_such(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object, **_settings: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 3 GiB")

    monkeypatch.setattr(train_module, "collate", full)
    loaded = load(llama)
    with pytest.raises(StageError, match="during training") as error:
        train(loaded, make_prepared(loaded.tokenizer), FULL)
    assert error.value.reason is Reason.GPU_OUT_OF_MEMORY


def test_a_row_without_completion_is_named(llama: Path) -> None:
    loaded = load(llama)
    prepared = make_prepared(loaded.tokenizer)
    part = prepared.parts["train"]
    lengths = part.prompt_lengths.copy()
    lengths[5] = part.lengths[5]
    with pytest.raises(ValueError, match="row 6 has no prompt or no completion"):
        collate(dataclasses.replace(part, prompt_lengths=lengths), np.arange(10), device=CPU)
