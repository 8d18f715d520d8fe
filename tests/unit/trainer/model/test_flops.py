"""What a training costs, by formula."""

from __future__ import annotations

import pytest

from finetune_trainer.model.flops import EncoderShape, Shape, compute, training_flops

# Llama-3.2-1B from its published shape: 16 layers of width 2048, 32 heads of 64, 8 key-value heads, 8192 inside.
ONE_BILLION = Shape(
    parameters=1_235_814_400,
    trained=1_235_814_400,
    body=16 * (2048 * 2048 + 2 * 2048 * 512 + 2048 * 2048 + 3 * 2048 * 8192),
    head=128_256 * 2048,
    attention_width=16 * 32 * 64,
    adapters=0,
)


def test_the_flops_of_a_known_model_are_those_of_the_formula() -> None:
    per_token = training_flops(ONE_BILLION, tokens=512, supervised=512, attention_pairs=512 * 512) / 512
    assert per_token == pytest.approx(7.5e9, rel=0.01)


def test_the_head_costs_only_what_is_supervised() -> None:
    all_of_it = training_flops(ONE_BILLION, tokens=1000, supervised=1000, attention_pairs=0)
    tenth = training_flops(ONE_BILLION, tokens=1000, supervised=100, attention_pairs=0)
    assert all_of_it - tenth == 6 * ONE_BILLION.head * 900


def test_frozen_weights_cost_two_thirds() -> None:
    shape = Shape(parameters=1000, trained=10, body=1000, head=0, attention_width=0, adapters=10)
    assert training_flops(shape, tokens=1, supervised=0, attention_pairs=0) == 4 * 1000 + 6 * 10


def test_compute_is_printed_for_the_status() -> None:
    spent = compute(
        ONE_BILLION,
        tokens=400_000,
        supervised=40_000,
        attention_pairs=400_000 * 512,
        seconds=10.0,
        peak_memory_bytes=123,
    )
    assert spent.flops == "2.44e15"
    assert spent.compute_optimal_tokens == 20 * 1_235_814_400
    assert (spent.train_tokens, spent.train_seconds, spent.tokens_per_second) == (400_000, 10, 40_000)


def test_prompts_pass_through_the_encoder_and_answers_through_the_decoder() -> None:
    encoder = EncoderShape(body=1000, attention_width=10, adapters=0)
    shape = Shape(parameters=9, trained=9, body=100, head=50, attention_width=7, adapters=0, encoder=encoder)
    prompt, answer = 30, 4
    expected = 6 * (1000 * prompt + (100 + 50) * answer)  # forward, and backward twice
    expected += 12 * 10 * prompt * prompt  # each token of a prompt looks at all of them
    expected += 6 * 7 * answer * answer + 12 * 7 * answer * prompt  # an answer at itself and the prompt
    whole = prompt + answer
    assert training_flops(
        shape, tokens=whole, supervised=answer, attention_pairs=whole**2, prompt_pairs=prompt**2
    ) == pytest.approx(expected)


def test_frozen_weights_of_an_encoder_cost_a_third_less() -> None:
    encoder = EncoderShape(body=1000, attention_width=0, adapters=10)
    shape = Shape(parameters=9, trained=9, body=0, head=0, attention_width=0, adapters=0, encoder=encoder)
    assert training_flops(shape, tokens=3, supervised=1, attention_pairs=9, prompt_pairs=4) == 2 * (4 * 1000 + 6 * 10)
