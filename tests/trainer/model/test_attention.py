"""The attention of CPU training means what transformers' sdpa means, and what it doesn't do goes there unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from finetune_trainer.model import attention as module
from finetune_trainer.model.attention import attention, attention_for_training

BATCH, HEADS, GROUPS, WIDTH = 3, 6, 2, 16


def layer() -> Any:
    made: Any = torch.nn.Module()
    made.num_key_value_groups = HEADS // GROUPS
    return made


def inputs(queries: int, keys: int, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    """Query, key and value as a model's projections leave them: heads behind positions in memory."""
    generator = torch.Generator().manual_seed(queries * 100 + keys)
    shapes = ((queries, HEADS), (keys, GROUPS), (keys, GROUPS))
    return [
        torch.randn(BATCH, *shape, WIDTH, generator=generator).to(dtype).transpose(1, 2).requires_grad_()
        for shape in shapes
    ]


def both(tensors: list[Tensor], mask: Tensor | None, **options: Any) -> list[tuple[Tensor, ...]]:
    """(output, gradients) of ours and of sdpa."""
    results = []
    for function in (attention, sdpa_attention_forward):
        output, _ = function(layer(), *tensors, mask, **options)
        weights = torch.linspace(-1, 1, output.numel()).reshape(output.shape).to(output.dtype)
        gradients = torch.autograd.grad((output * weights).sum(), tensors)
        results.append((output.detach(), *gradients))
    return results


def after_a_beginning(queries: int, keys: int) -> Tensor:
    """Each row sees all that was there before, and itself up to its own position."""
    return torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)[None, None]


def padded_on_the_left(length: int) -> Tensor:
    seen = torch.arange(length)[None] >= torch.tensor([0, 2, 5])[:, None]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    own = torch.eye(length, dtype=torch.bool)
    return ((causal[None] & seen[:, None]) | own)[:, None]


def added_numbers(length: int) -> Tensor:
    return (torch.arange(length)[:, None] - torch.arange(length)[None]).abs().neg().to(torch.bfloat16)[None, None]


@pytest.mark.parametrize(
    ("queries", "keys", "mask", "options"),
    [
        (24, 24, None, {}),
        (24, 24, None, {"is_causal": False}),
        (24, 24, None, {"scaling": 0.5}),
        (9, 24, after_a_beginning(9, 24), {}),
        (24, 24, padded_on_the_left(24), {}),
        (24, 24, added_numbers(24), {}),
        (1, 24, None, {"is_causal": False}),
    ],
    ids=["causal", "all", "scaled", "after a beginning", "padded", "added numbers", "one query"],
)
def test_output_and_gradients_are_those_of_sdpa_but_for_rounding(
    queries: int, keys: int, mask: Tensor | None, options: dict[str, Any]
) -> None:
    ours, theirs = both(inputs(queries, keys), mask, **options)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape
        # A few roundings of bfloat16, which has 8 bits.
        torch.testing.assert_close(mine.float(), other.float(), rtol=0.02, atol=0.01 * float(other.abs().max()))


def test_output_and_gradients_are_as_near_to_the_exact_ones_as_those_of_sdpa() -> None:
    tensors = [tensor.detach() * 3 for tensor in inputs(48, 48)]  # scores that bfloat16 can't hold
    rounded = [tensor.requires_grad_() for tensor in tensors]
    ours, theirs = both(rounded, None)
    exact = both([tensor.detach().float().requires_grad_() for tensor in tensors], None)[1]
    for mine, other, true in zip(ours, theirs, exact, strict=True):
        assert float((mine.float() - true).norm()) < 1.5 * float((other.float() - true).norm())


def test_no_gradient_reaches_what_a_query_may_not_see() -> None:
    query, key, value = inputs(12, 12)
    output, _ = attention(layer(), query, key, value, None)
    gradients = torch.autograd.grad(output[:, :5].float().sum(), (key, value))
    assert all(float(gradient[:, :, 5:].abs().max()) == 0.0 for gradient in gradients)


@pytest.mark.parametrize(
    ("dtype", "options", "limits"),
    [
        (torch.float32, {}, {}),
        (torch.bfloat16, {"dropout": 0.5}, {}),
        (torch.bfloat16, {}, {"MOST_SCORES": 24 * 24 * HEADS * BATCH - 1}),
        (torch.bfloat16, {}, {"MOST_SCORES_OF_A_HEAD": 24 * 24 - 1}),
    ],
    ids=["32 bits", "dropout", "one score too many", "a head with one too many"],
)
def test_what_is_done_elsewhere_has_the_bits_of_sdpa(
    dtype: torch.dtype, options: dict[str, Any], limits: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in limits.items():
        monkeypatch.setattr(module, name, value)
    results = []
    for function in (attention, sdpa_attention_forward):
        torch.manual_seed(1)
        results.append(function(layer(), *inputs(24, 24, dtype), None, **options)[0])
    assert torch.equal(*results)


def test_without_gradients_the_bits_are_those_of_sdpa() -> None:
    tensors = inputs(24, 24)
    with torch.no_grad():
        assert torch.equal(attention(layer(), *tensors, None)[0], sdpa_attention_forward(layer(), *tensors, None)[0])


def test_arithmetic_that_is_unknown_here_is_left_to_sdpa() -> None:
    """Which refuses this one."""
    with pytest.raises(ValueError, match="softcap"):
        attention(layer(), *inputs(4, 4), None, softcap=30.0)


def test_a_model_uses_it_while_it_trains_and_only_then(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny / "model", dtype=torch.bfloat16)
    ids = torch.arange(20).reshape(2, 10) % model.config.vocab_size
    before = model(input_ids=ids).logits.detach()
    calls = []
    original = module._causal
    monkeypatch.setattr(module, "_causal", lambda *a: calls.append(a) or original(*a))
    with attention_for_training(model):
        within = model(input_ids=ids).logits.detach()
        assert len(calls) == model.config.num_hidden_layers
        with torch.no_grad():
            assert torch.equal(model(input_ids=ids).logits, before)
    torch.testing.assert_close(within.float(), before.float(), rtol=0.05, atol=0.05)
    assert model.config._attn_implementation == "sdpa"
    calls.clear()
    assert torch.equal(model(input_ids=ids).logits, before)
    assert not calls


def test_a_model_with_another_attention_keeps_it(tiny: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny / "model", attn_implementation="eager")
    with attention_for_training(model):
        assert model.config._attn_implementation == "eager"
