"""Attention for training in bfloat16 on a CPU: two whole matrix products in place of torch's tiled kernel.

The tiled kernel (``scaled_dot_product_attention``) needs little memory, but on a CPU its backward pass takes several
times as long as the products that it consists of, for the row lengths of most fine-tunes. Scores are rounded to
bfloat16 before the softmax, as in transformers' own "eager" attention. Whatever doesn't fit here (evaluation, other
devices and types, dropout, long rows) goes to transformers' ``sdpa`` unchanged.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

__all__ = ["MOST_SCORES", "attention", "attention_for_training"]

NAME: Final = "finetune_products"
MOST_SCORES: Final = 2**24
"""Scores of a layer in a micro-batch; they are kept for the backward pass, 32 MiB a layer at most."""
_UNKNOWN: Final = ("position_bias", "cache", "softcap", "s_aux")
"""What changes the arithmetic of a layer; none of it is done here."""


@contextmanager
def attention_for_training(model: PreTrainedModel) -> Iterator[None]:
    """Let a model that would use ``sdpa`` on a CPU use :func:`attention` while the block runs."""
    config = model.config
    if model.device.type != "cpu" or config._attn_implementation != "sdpa" or not model._supports_attention_backend:
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
    attention_mask
        (batch or 1, 1, queries, keys): bool, True where a query may look, or numbers to add; None: causal or nothing.

    Returns
    -------
    output, None
        (batch, queries, heads, width).
    """
    causal = attention_mask is None and (getattr(module, "is_causal", True) if is_causal is None else is_causal)
    if dropout or not _fits(query, key, attention_mask, more) or (causal and query.shape[2] != key.shape[2]):
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
    bias = _causal(queries, query.dtype) if causal else _as_bias(attention_mask, query, keys)
    # Heads that share keys become further queries of one product.
    bias = bias[:, :, None].expand(-1, groups if bias.shape[0] > 1 else 1, shared, -1, -1)
    bias = bias.reshape(-1, shared * queries, keys).expand(batch * groups, -1, -1)
    scores = torch.baddbmm(
        bias,
        query.reshape(batch * groups, shared * queries, width),
        key.reshape(batch * groups, keys, -1).transpose(1, 2),
        alpha=width**-0.5 if scaling is None else scaling,
    )
    mixed = torch.bmm(scores.softmax(-1), value.reshape(batch * groups, keys, -1))
    return mixed.view(batch, heads, queries, -1).transpose(1, 2).contiguous(), None


def _fits(query: Tensor, key: Tensor, mask: Tensor | None, more: dict[str, Any]) -> bool:
    batch, heads, queries = query.shape[:3]
    return (
        torch.is_grad_enabled()
        and query.device.type == "cpu"
        and query.dtype == torch.bfloat16
        and batch * heads * queries * key.shape[2] <= MOST_SCORES
        and (mask is None or (mask.ndim == 4 and mask.shape[1] == 1))
        and all(more.get(name) is None for name in _UNKNOWN)
    )


@functools.lru_cache(maxsize=4)
def _causal(length: int, dtype: torch.dtype) -> Tensor:
    """(1, 1, length, length): nothing to add for what a query may see, far below every score for what follows it."""
    return torch.full((length, length), _hidden(dtype), dtype=dtype).triu(1)[None, None]


def _as_bias(mask: Tensor | None, query: Tensor, keys: int) -> Tensor:
    if mask is None:
        return query.new_zeros(1, 1, query.shape[2], keys)
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=query.dtype).masked_fill(~mask, _hidden(query.dtype))
    return mask.to(query.dtype)


def _hidden(dtype: torch.dtype) -> float:
    # Half the lowest number: a score is added to it, and infinity in a whole row would make it no number at all.
    return torch.finfo(dtype).min / 2
