"""Logits at chosen positions only, through the model's own forward.

In label tasks a few per cent of the positions are supervised, while the head over a large vocabulary is up to half the
arithmetic of a small model. Calling the head by hand would skip what some architectures do around it (soft caps of
Gemma 2, logit scales of Granite and Cohere); so a forward-pre-hook on the output embeddings drops the other positions
inside the model's forward, and a check at load time proves it for the architecture at hand.
"""

from __future__ import annotations

import logging
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

__all__ = ["CompletionHead"]

log = logging.getLogger(__name__)


class CompletionHead:
    """Runs a language model and returns logits at given positions.

    Attributes
    ----------
    restricted
        Whether the head runs at those positions only; else it runs everywhere and the rest is thrown away.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._index: Tensor | None = None
        self.restricted = False
        head = model.get_output_embeddings()
        if isinstance(head, nn.Module):
            # Not bound to this object, or the model would own its owner and outlive both.
            this = weakref.ref(self)
            head.register_forward_pre_hook(lambda _, args: own._select(args) if (own := this()) else None)
            self.restricted = True

    def _select(self, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._index is None or not self.restricted or not args:
            return None
        hidden: Tensor = args[0]
        return (hidden.reshape(-1, hidden.shape[-1]).index_select(0, self._index).unsqueeze(0), *args[1:])

    def __call__(self, input_ids: Tensor | None, index: Tensor, **inputs: Any) -> tuple[Tensor, Any]:
        """Run the model.

        Parameters
        ----------
        input_ids
            int64 (batch, length); None where ``inputs`` has what the encoder made of them.
        index
            int64 (n,): positions in the flattened batch, for an encoder-decoder model in that of the decoder's ids.
        inputs
            Further arguments of the model's forward.

        Returns
        -------
        logits, past_key_values
            (n, vocabulary) in the model's precision; the cache, None unless ``use_cache``.
        """
        inputs.setdefault("use_cache", False)
        self._index = index
        try:
            output = self._model(input_ids=input_ids, **inputs)
        finally:
            self._index = None
        logits = output.logits
        if self.restricted:
            return logits[0], output.past_key_values if inputs["use_cache"] else None
        flat = logits.reshape(-1, logits.shape[-1]).index_select(0, index)
        return flat, output.past_key_values if inputs["use_cache"] else None

    @torch.no_grad()
    def check(self, vocabulary: int, device: torch.device) -> None:
        """Compare two rows with the full forward; where they differ, run the head everywhere from now on."""
        if not self.restricted:
            log.info("the model has no output embeddings of its own; its head runs at every position")
            return
        ids = torch.arange(1, 27, device=device).mul_(7919).remainder_(vocabulary).reshape(2, 13)
        index = torch.tensor([2, 3, 11, 13, 18, 25], device=device)
        inputs = {"decoder_input_ids": ids.flip(0)} if self._model.config.is_encoder_decoder else {}
        restricted, _ = self(ids, index, **inputs)
        self.restricted = False
        full, _ = self(ids, index, **inputs)
        # Only the shape of the last product differs between the two, so a few roundings of the type are all there is.
        bound = 16 * torch.finfo(full.dtype).eps * float(full.abs().max().clamp(min=1.0))
        self.restricted = restricted.shape == full.shape and bool((restricted - full).abs().max() <= bound)
        if not self.restricted:
            log.warning("this architecture's head can't be restricted to completion positions; it runs at all of them")
