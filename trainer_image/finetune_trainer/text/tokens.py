"""Texts as tokens, by themselves and as they follow other text; beside ``encode.py``, which says which texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from finetune_api.digest import digest_of
from finetune_trainer.text.control import ControlTokens
from finetune_trainer.text.example import Ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TextTokens", "tokenizer_digest"]

_ANCHORS: Final = ("\n", "a", "0")


class TextTokens:
    """What a tokenizer makes of texts, without what it adds by itself.

    Parameters
    ----------
    tokenizer, control
        The model's, and its control tokens.
    alone
        Whether a completion is a text by itself, as for a model with an encoder, and follows nothing.

    Attributes
    ----------
    anchors
        Texts to stand before a completion while it is tokenised, each tried if it grows together with the one before.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, control: ControlTokens, *, alone: bool) -> None:
        self._tokenizer, self._control = tokenizer, control
        self._anchors = [("", ())] if alone else self._find_anchors()
        self.anchors = tuple(anchor for anchor, _ in self._anchors)

    def ids(self, texts: Sequence[str]) -> list[Ids]:
        """Tokens of texts that stand by themselves."""
        if not texts:
            return []
        batch = self._tokenizer(
            list(texts),
            add_special_tokens=False,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            verbose=False,
        )
        return [tuple(ids) for ids in batch["input_ids"]]

    def following(self, texts: Sequence[str]) -> list[Ids]:
        """Tokens of texts that follow other text."""
        results: list[Ids] = [()] * len(texts)
        open_ = list(range(len(texts)))
        for anchor, start in self._anchors:
            ids = self.ids([anchor + texts[i] for i in open_])
            for i, whole in zip(open_, ids, strict=True):
                results[i] = whole[len(start) :]
            # A text that grows together with one anchor is tried with the next.
            open_ = [i for i, whole in zip(open_, ids, strict=True) if whole[: len(start)] != start]
            if not open_:
                break
        return results

    def following_marked(self, marked: str, text: str) -> Ids | str:
        """Tokens of such a text whose control tokens are marked, or why there are none."""
        result: Ids | str = ()
        for anchor, start in self._anchors:
            result = self._control.encode(anchor + marked, anchor + text)
            if isinstance(result, str):
                return result
            if result[: len(start)] == start:
                return result[len(start) :]
        return result

    def _find_anchors(self) -> list[tuple[str, Ids]]:
        """Return what must stand before a text so that it is tokenised as a continuation, with its tokens.

        SentencePiece vocabularies put a blank before the first word of every text, so that a completion tokenised alone
        would begin with one too many. A line end before it, cut off again, takes that blank.
        """
        alone, end, both = self.ids(["a", "\n", "\na"])
        if both == end + alone:
            return [("", ())]
        return list(zip(_ANCHORS, self.ids(_ANCHORS), strict=True))


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Digest of everything that decides which tokens a text gets, the chat template included."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        pipeline = json.loads(backend.to_str())
        # Set by whoever used the tokenizer last; the encoder uses neither.
        pipeline["truncation"] = pipeline["padding"] = None
    else:
        pipeline = {"vocabulary": tokenizer.get_vocab(), "class": type(tokenizer).__name__}
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return digest_of({"pipeline": pipeline, "special": special, "chat": tokenizer.chat_template})
