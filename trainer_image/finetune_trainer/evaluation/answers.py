"""What tokens say as text, and whether that is the expected answer: the stop rule applied to what a model writes.

Both sides of a comparison are decoded by the same tokenizer, so that what it can't keep of a text (upper case, a
Unicode form) is held against nobody. An expected answer that it can't spell at all is never matched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from transformers import PreTrainedTokenizerBase

from finetune_trainer.prepare.prepared import Prepared
from finetune_trainer.text.stop import StopRule, plain_line_ends

__all__ = ["Answers"]

_EVERY_TOKEN: Final = 32
_EVERY: Final = 8
"""After so many tokens a text is looked at every few tokens only: that decides when decoding ends, not how."""


class Answers:
    """Reads the answers of one model.

    Parameters
    ----------
    eos_ids
        Tokens that the model ends a text with; the last end token of training is one too.
    whole
        Decode every answer to its end, for its text; else as far as the verdict needs.

    Attributes
    ----------
    stops
        Tokens that end an answer.
    whole
        As given.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, prepared: Prepared, eos_ids: frozenset[int], *, whole: bool
    ) -> None:
        self.rule = StopRule(prepared.stop)
        self.stops = frozenset({*prepared.end_ids[-1:], *eos_ids})
        self._tokenizer, self._end, self.whole = tokenizer, prepared.end_ids, whole
        # A token spells at least one byte: so many of the last ones hold whatever stop text has just been completed.
        self._window = 2 * _EVERY + max((len(text.encode()) for text in prepared.stop), default=0)

    def reference(self, completion: Sequence[int]) -> str | None:
        """Return what an answer must be to match an expected completion; None where no answer can."""
        ids = tuple(completion)
        if ids[-len(self._end) :] == self._end:
            ids = ids[: -len(self._end)]
        unknown = self._tokenizer.unk_token_id
        if unknown is not None and unknown in ids:
            return None
        return self.rule.reference(self._text(ids))

    def expected(self, completion: Sequence[int]) -> str:
        """Return an expected completion as text that answers are measured against.

        Cut by the stop rule where an answer can match it; else whole, with its unknown tokens by name, so that no
        answer can reach it.
        """
        if (reference := self.reference(completion)) is not None:
            return reference
        ids = list(completion[: len(completion) - len(self._end)])
        if tuple(completion[len(ids) :]) != self._end:
            ids = list(completion)
        unknown = self._tokenizer.unk_token_id
        text = self._tokenizer.decode(ids, skip_special_tokens=unknown not in ids, clean_up_tokenization_spaces=False)
        return plain_line_ends(str(text)).strip()

    def finished(self, tokens: Sequence[int], reference: str | None) -> bool:
        """Tell whether an answer has ended, or more of it doesn't matter."""
        if tokens[-1] in self.stops:
            return True
        if len(tokens) > _EVERY_TOKEN and len(tokens) % _EVERY:
            return False
        if self.whole:
            return bool(self.rule.texts) and self._has_stop_text(tokens)
        if reference is None:
            return True
        text = self._text(tokens)
        return self.rule.ends(text) or not self.rule.may_become(text, reference)

    def said(self, tokens: Sequence[int]) -> str:
        """Return the answer in what a model wrote."""
        return self.rule.answer(self._text(tokens[:-1] if tokens and tokens[-1] in self.stops else tokens))

    def _has_stop_text(self, tokens: Sequence[int]) -> bool:
        recent = self._text(tokens[-self._window :])  # cheaper than all of a long answer
        return self.rule.occurs(recent) and self.rule.ends(self._text(tokens))

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))
