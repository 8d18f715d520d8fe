"""What a tokenizer puts around a text by itself: the encoder keeps what stands before, and never what comes behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune_trainer.text.example import Ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["added_ids"]


def added_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[Ids, Ids]:
    """Return the tokens that a plain call puts before and behind every text.

    What it puts behind one (``add_eos_token``, a separator) ends the text, so it belongs to no prompt.
    """
    bare = tuple(tokenizer("a", add_special_tokens=False)["input_ids"])
    full = tuple(tokenizer("a")["input_ids"])
    starts = (i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    start = next(starts, None)
    if start is None:  # the text itself has other tokens in a plain call
        return (), full
    return full[:start], full[start + len(bare) :]
