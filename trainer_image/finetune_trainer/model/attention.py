"""Attention for training in bfloat16 on a CPU: whole matrix products in place of torch's tiled kernel.

The tiled kernel (``scaled_dot_product_attention``) needs little memory, but on a CPU its backward pass takes several
times as long as the products that it consists of, for the row lengths of most fine-tunes. Scores and softmax are
computed in 32 bits, as there; the gradients are those of that forward pass. Whatever doesn't fit here (evaluation,
other devices and types, dropout, long rows) goes to transformers' ``sdpa`` unchanged.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from typing_extensions import override

__all__ = ["MOST_SCORES", "NAME", "attention", "attention_for_training"]

NAME: Final = "finetune_products"
MOST_SCORES: Final = 2**24
"""Scores of a layer in a micro-batch; their softmax is kept for the backward pass, 32 MiB a layer at most."""
MOST_SCORES_OF_A_HEAD: Final = 2**18
"""Those of 512 tokens: beyond, they leave the processor's cache and the tiled kernel is as fast."""
SCORES_AT_ONCE: Final = 2**19
"""Scores in 32 bits that stay in the processor's cache until their softmax is taken."""
_HIDDEN: Final = torch.finfo(torch.float32).min / 2
"""Not minus infinity: a whole row of it would make its softmax no number."""
_UNKNOWN: Final = ("position_bias", "cache", "softcap", "s_aux")
"""What changes the arithmetic of a layer; none of it is done here."""


@contextmanager
def attention_for_training(model: PreTrainedModel) -> Iterator[None]:
    """Let a model that would use ``sdpa`` on a CPU use :func:`attention` while the block runs."""
    config = model.config
    here = model.device.type == "cpu" and config._attn_implementation == "sdpa" and model._supports_attention_backend
    # Encoders look both ways, and T5 adds biases of positions.
    if not here or config.is_encoder_decoder:
        yield
        return
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation("sdpa")


def attention(  # noqa: PLR0917 - transformers' interface
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **more: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend, with the interface and the meaning of transformers' ``sdpa_attention_forward``.

    Parameters
    ----------
    query
        (batch, heads, queries, width).
    key, value
        (batch, groups, keys, width); each group serves heads / groups heads.
    more
        ``row_lengths``: rows of these lengths stand one behind the other, and the mask hides them from each other.
    attention_mask
        (batch or 1, 1, queries, keys): bool, True where a query may look, or numbers to add; None: causal or nothing.

    Returns
    -------
    output, None
        (batch, queries, heads, width).
    """
    lengths: tuple[int, ...] | None = more.pop("row_lengths", None)
    if lengths is not None and attention_mask is not None and torch.is_grad_enabled():
        # The mask keeps the rows apart already; all that is saved here are the products between them.
        rows = zip(
            *(tensor.split(lengths, dim=2) for tensor in (query, key, value)),
            _masks_of_rows(attention_mask, lengths),
            strict=True,
        )
        outputs = [
            attention(module, q, k, v, mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **more)[0]
            for q, k, v, mask in rows
        ]
        return torch.cat(outputs, dim=1), None
    causal = attention_mask is None and (getattr(module, "is_causal", True) if is_causal is None else is_causal)
    if dropout or not _fits(query, key, attention_mask, more) or (causal and query.shape[2] != key.shape[2]):
        if attention_mask is not None and attention_mask.dtype != torch.bool:
            attention_mask = attention_mask.to(query.dtype)
        output: tuple[Tensor, None] = sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            is_causal=is_causal,
            **more,
        )
        return output
    batch, heads, queries, width = query.shape
    groups, keys = key.shape[1:3]
    shared = heads // groups
    bias = _causal(queries) if causal else _as_bias(attention_mask, queries, keys)
    # Heads that share keys become further queries of one product.
    bias = bias[:, :, None].expand(-1, groups if bias.shape[0] > 1 else 1, shared, -1, -1)
    mixed: Tensor = _Products.apply(  # type: ignore[no-untyped-call]  # torch leaves apply() untyped
        query.reshape(batch * groups, shared * queries, width),
        key.reshape(batch * groups, keys, -1),
        value.reshape(batch * groups, keys, -1),
        bias.reshape(-1, shared * queries, keys).expand(batch * groups, -1, -1),
        width**-0.5 if scaling is None else scaling,
    )
    return mixed.view(batch, heads, queries, -1).transpose(1, 2).contiguous(), None


class _Products(torch.autograd.Function):
    """softmax(scale * query key^T + bias) value, for (n, queries, width) with (n, keys, width)."""

    @staticmethod
    @override
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        query, key, value, bias, scale = inputs
        wide_query, wide_key = query.float(), key.float().transpose(1, 2)
        shares = query.new_empty(*query.shape[:2], key.shape[1])
        some = max(1, SCORES_AT_ONCE // (query.shape[1] * key.shape[1]))
        for i in range(0, len(query), some):
            part = slice(i, i + some)
            shares[part] = torch.baddbmm(bias[part], wide_query[part], wide_key[part], alpha=scale).softmax(-1)
        ctx.save_for_backward(query, key, value, shares)
        ctx.scale = scale
        return torch.bmm(shares, value)

    @staticmethod
    @override
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        query, key, value, shares = ctx.saved_tensors
        (gradient,) = gradients
        of_shares = torch.bmm(gradient, value.transpose(1, 2))
        of_scores = torch.ops.aten._softmax_backward_data(of_shares, shares, -1, shares.dtype) * ctx.scale
        return (
            torch.bmm(of_scores, key),
            torch.bmm(of_scores.transpose(1, 2), query),
            torch.bmm(shares.transpose(1, 2), gradient),
            None,
            None,
        )


def _fits(query: Tensor, key: Tensor, mask: Tensor | None, more: dict[str, Any]) -> bool:
    batch, heads, queries = query.shape[:3]
    return (
        torch.is_grad_enabled()
        and query.device.type == "cpu"
        and query.dtype == torch.bfloat16
        and queries * key.shape[2] <= MOST_SCORES_OF_A_HEAD
        and batch * heads * queries * key.shape[2] <= MOST_SCORES
        and (mask is None or (mask.ndim == 4 and mask.shape[1] == 1))
        and all(more.get(name) is None for name in _UNKNOWN)
    )


@functools.lru_cache(maxsize=2)
def _masks_of_rows(mask: Tensor, lengths: tuple[int, ...]) -> list[Tensor]:
    """Cut the blocks of the rows out of a mask; kept for the other layers, which get the same tensor."""
    ends = np.cumsum(lengths).tolist()
    blocks = (slice(end - length, end) for end, length in zip(ends, lengths, strict=True))
    return [_as_bias(mask[..., block, block], 0, 0) for block in blocks]


@functools.lru_cache(maxsize=4)
def _causal(length: int) -> Tensor:
    """float32 (1, 1, length, length): 0 for what a query may see, far below every score for what follows it."""
    return torch.full((length, length), _HIDDEN).triu(1)[None, None]


def _as_bias(mask: Tensor | None, queries: int, keys: int) -> Tensor:
    if mask is None:
        return torch.zeros(1, 1, queries, keys)
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape).masked_fill(~mask, _HIDDEN)
    return mask.float()
