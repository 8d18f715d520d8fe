"""Training of encoder-decoder models: the library's own loss, whole gradients, adapters, what it costs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune_api.job import LoRA
from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.model.load import load_model
from finetune_trainer.model.lora import add_lora, check_adapters
from finetune_trainer.model.shape import adapted_layers, shape_of
from finetune_trainer.training import loop
from finetune_trainer.training.batch import collate_apart
from finetune_trainer.training.loop import train
from finetune_trainer.training.loss import summed_cross_entropy
from finetune_trainer.training.plan import Hyperparameters
from tests.support.seq2seq_kit import START, load, own_network, prepared_of
from tests.support.tiny_seq2seq import KINDS, Kind, make_encoder_decoder
from tests.support.train_kit import FULL, without_validation

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_a_batch_is_the_librarys_own(tmp_path: Path, kind: Kind) -> None:
    make_encoder_decoder(tmp_path, kind)
    loaded, network = load(tmp_path), own_network(tmp_path)
    prepared = prepared_of(loaded)
    part, rows = prepared.parts["train"], np.arange(8)
    batch = collate_apart(part, rows, device=CPU, start=loaded.decoder_start, pad_id=prepared.pad_id)
    with torch.no_grad():
        logits, _ = loaded.head(batch.input_ids, batch.index, **batch.inputs)
        total, _ = summed_cross_entropy(logits, batch.targets)
        # Labels as everybody gives them: padding is -100, and what is given before an answer is a label to the library.
        given = list(START[kind][1:])
        answers = [[*given, *part.tokens[part.offsets[i] + part.prompt_lengths[i] : part.offsets[i + 1]]] for i in rows]
        labels = torch.full((8, max(map(len, answers))), -100)
        for i, answer in enumerate(answers):
            labels[i, : len(answer)] = torch.tensor(answer)
        own = network(batch.input_ids, attention_mask=batch.inputs["attention_mask"], labels=labels)
        first = own.logits[:, : len(given)].log_softmax(-1)
        begun = -sum(float(first[:, at, token].sum()) for at, token in enumerate(given))
    tokens = int((labels != -100).sum())
    assert float(total) == pytest.approx(float(own.loss) * tokens - begun, rel=1e-4)
    assert len(batch.targets) == tokens - 8 * len(given)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_a_step_is_the_same_however_it_is_cut(tmp_path: Path, kind: Kind) -> None:
    make_encoder_decoder(tmp_path, kind)
    loaded = load(tmp_path)
    prepared, network = prepared_of(loaded), loaded.model.double()  # in 64 bits roundings are out of the way
    part, gradients = prepared.parts["train"], []
    for cut in ([[i] for i in range(8)], [list(range(8))]):
        network.zero_grad()
        for rows in cut:
            batch = collate_apart(part, np.array(rows), device=CPU, start=loaded.decoder_start, pad_id=prepared.pad_id)
            logits, _ = loaded.head(batch.input_ids, batch.index, **batch.inputs)
            torch.nn.functional.cross_entropy(logits, batch.targets, reduction="sum").backward()
        gradients.append({n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None})
    alone, together = gradients
    # Pegasus computes its positions, without a gradient.
    untrained = {n for n, _ in network.named_parameters() if kind == "pegasus" and n.endswith("embed_positions.weight")}
    assert alone.keys() == together.keys() == dict(network.named_parameters()).keys() - untrained
    for name, gradient in together.items():
        assert float((alone[name] - gradient).norm()) <= 1e-9 * (float(gradient.norm()) + 1e-3), name


@pytest.mark.parametrize(("kind", "rate"), [("t5", "1e-2"), ("bart", "3e-3")])
def test_a_model_learns(tmp_path: Path, kind: Kind, rate: str) -> None:
    make_encoder_decoder(tmp_path, kind, calm=True)
    loaded = load(tmp_path)
    prepared = without_validation(prepared_of(loaded, count=320))
    before = evaluate(loaded, prepared.parts["test"], prepared, texts=(), generate=False)
    train(loaded, prepared, Hyperparameters(method="Full", epochs=10, batch_size=8, learning_rate=rate, seed=7))
    after = evaluate(loaded, prepared.parts["test"], prepared, texts=(), generate=False)
    assert before.value < 0.5
    assert after.value > 0.9


T5_NAMES = {"SelfAttention.q", "SelfAttention.k", "SelfAttention.v", "SelfAttention.o"}
T5_NAMES |= {"EncDecAttention.q", "EncDecAttention.k", "EncDecAttention.v", "EncDecAttention.o", "DenseReluDense.wo"}
BART_NAMES = {f"{block}.{name}_proj" for block in ("self_attn", "encoder_attn") for name in ("q", "k", "v", "out")}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("t5", T5_NAMES | {"DenseReluDense.wi"}),
        ("t5-untied", T5_NAMES | {"DenseReluDense.wi_0", "DenseReluDense.wi_1"}),
        ("bart", BART_NAMES | {"*.fc1", "*.fc2"}),
    ],
)
def test_every_matrix_of_the_blocks_carries_an_adapter_and_the_head_none(
    tmp_path: Path, kind: Kind, names: set[str]
) -> None:
    make_encoder_decoder(tmp_path, kind)
    check_adapters(tmp_path, LoRA())
    carrying, bare = adapted_layers(add_lora(load(tmp_path), LoRA(), seed=0))
    assert {".".join(name.split(".")[-2:]) for name in carrying} == names
    assert not bare


def test_adapters_stand_where_target_modules_says(tmp_path: Path) -> None:
    make_encoder_decoder(tmp_path)
    lora = LoRA(target_modules=["q", "EncDecAttention.v"])
    carrying, _ = adapted_layers(add_lora(load(tmp_path), lora, seed=0))
    assert {name.rpartition(".layer.")[2].split(".", 1)[1] for name in carrying} == {
        "SelfAttention.q",
        "EncDecAttention.q",
        "EncDecAttention.v",
    }


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_rows_are_neither_packed_nor_begun_together(
    tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_encoder_decoder(tmp_path, kind)
    loaded = load(tmp_path)
    for name in ("pack", "collate", "shared_beginning", "supports_packing"):
        monkeypatch.setattr(loop, name, None)
    outcome = train(loaded, without_validation(prepared_of(loaded)), dataclasses.replace(FULL, max_steps=2))
    assert outcome.steps == 2


def test_the_shape_of_a_model_tells_what_prompts_and_what_answers_pass_through(tmp_path: Path) -> None:
    make_encoder_decoder(tmp_path, "t5")
    shape = shape_of(load(tmp_path))
    attention, feed_forward = 4 * 32 * 32, 2 * 32 * 64
    assert shape.encoder is not None
    # Two blocks of an encoder, and the keys and values that one block of the decoder makes of its output.
    assert shape.encoder.body == 2 * (attention + feed_forward) + 2 * 32 * 32
    assert shape.body == attention + 2 * 32 * 32 + feed_forward
    assert (shape.encoder.attention_width, shape.attention_width) == (2 * 4 * 8, 1 * 4 * 8)


def test_the_shape_of_bart_has_the_heads_of_each_side(tmp_path: Path) -> None:
    make_encoder_decoder(tmp_path, "bart")
    shape = shape_of(load(tmp_path))
    assert shape.encoder is not None
    assert (shape.encoder.attention_width, shape.attention_width) == (2 * 32, 32)
    assert shape.encoder.body == 2 * (4 * 32 * 32 + 2 * 32 * 64) + 2 * 32 * 32
    assert shape.body == 4 * 32 * 32 + 2 * 32 * 32 + 2 * 32 * 48


def test_what_a_training_saw_is_counted_on_both_sides(tmp_path: Path) -> None:
    make_encoder_decoder(tmp_path)
    loaded = load(tmp_path)
    prepared = without_validation(prepared_of(loaded))
    outcome, part = train(loaded, prepared, FULL), prepared.parts["train"]
    assert outcome.tokens == 2 * int(part.lengths.sum())
    assert outcome.supervised_tokens == 2 * int((part.lengths - part.prompt_lengths).sum())
    assert outcome.prompt_pairs == 2 * int((part.prompt_lengths.astype(np.int64) ** 2).sum())


def test_bfloat16_trains_where_it_is_asked_for(tmp_path: Path) -> None:
    make_encoder_decoder(tmp_path)
    loaded = load_model(tmp_path, device=CPU, precision="BFloat16")
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}
    outcome = train(loaded, without_validation(prepared_of(loaded)), FULL)
    assert outcome.losses[-1] < outcome.losses[0]
