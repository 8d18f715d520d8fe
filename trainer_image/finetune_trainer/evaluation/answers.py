"""What tokens say as text, and whether that is the expected answer: the stop rule applied to what a model writes.

Where a model thinks before it answers, that is the text behind the thought; ``thoughts.py`` parts the two.
Both sides of a comparison are decoded by the same tokenizer, so that what it can't keep of a text (upper case, a
Unicode form) is held against nobody. An expected answer that it can't spell at all is never matched.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from transformers import PreTrainedTokenizerBase

from finetune_trainer.evaluation.thoughts import Parted, ThoughtReader
from finetune_trainer.prepare.prepared import Prepared
from finetune_trainer.text.stop import StopRule, plain_line_ends

__all__ = ["Answers", "Said"]

_EVERY_TOKEN: Final = 32
_EVERY: Final = 8
"""After so many tokens a text is looked at every few tokens only: that decides when decoding ends, not how."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a model wrote.

    Attributes
    ----------
    answer
        As the stop rule leaves it; empty where the thought before it never ends.
    thought
        What was thought before; None where models answer at once.
    unclosed
        Whether the thought never ends, so that there is no answer; None like ``thought``.
    """

    answer: str
    thought: str | None = None
    unclosed: bool | None = None


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
        self._calls, self._thoughts = prepared.calls, None
        if prepared.thoughts is not None:
            self._thoughts = ThoughtReader(tokenizer, prepared.thoughts, spell=self._text)
        # A token spells at least one byte: so many of the last ones hold whatever stop text has just been completed.
        self._window = 2 * _EVERY + max((len(text.encode()) for text in prepared.stop), default=0)
        self._marks = _marks(tokenizer, prepared, self._thoughts) - self.stops

    def reference(self, completion: Sequence[int]) -> str | None:
        """Return what an answer must be to match an expected completion; None where no answer can."""
        ids = tuple(completion)
        if ids[-len(self._end) :] == self._end:
            ids = ids[: -len(self._end)]
        parted = self._parted(ids)
        unknown = self._tokenizer.unk_token_id
        if parted.answer is None or (unknown is not None and unknown in parted.ids):
            return None
        return self.rule.reference(parted.answer)

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
        ids = list(self._parted(ids).ids)
        unknown = self._tokenizer.unk_token_id
        text = self._tokenizer.decode(ids, skip_special_tokens=unknown not in ids, clean_up_tokenization_spaces=False)
        return plain_line_ends(str(text)).strip()

    def matches(self, answer: str, reference: str | None, *, calls: bool) -> bool:
        """Tell whether an answer is the expected one: its text is, or where that calls tools, so do its calls.

        Calls are the same where names and arguments are, in the same order, as JSON: neither the order of keys nor
        white space counts, but types do. Beside them stands the same text, or none. An answer that the chat template
        would write in no such way is compared as text.

        Parameters
        ----------
        calls
            Whether the expected answer calls tools in a way that can be read back.
        """
        if reference is None or answer == reference:
            return reference is not None
        if not calls or self._calls is None:
            return False
        expected = self._calls.read(reference)
        return expected is not None and self._calls.read(answer) == expected

    def finished(self, tokens: Sequence[int], reference: str | None, *, calls: bool = False) -> bool:
        """Tell whether an answer has ended, or more of it doesn't matter; calls are read in a whole answer only."""
        if tokens[-1] in self.stops:
            return True
        if len(tokens) > _EVERY_TOKEN and len(tokens) % _EVERY:
            return False
        whole = self.whole or (calls and reference is not None)
        if self._thoughts is not None:
            return self._answered(tokens, reference, whole=whole)
        if whole:
            return bool(self.rule.texts) and self._has_stop_text(tokens)
        if reference is None:
            return True
        text = self._text(tokens)
        return self.rule.ends(text) or not self.rule.may_become(text, reference)

    def ended(self, tokens: Sequence[int]) -> bool:
        """Tell whether more tokens would change nothing of the answer; in a thought it hasn't begun."""
        if not tokens or tokens[-1] in self.stops:
            return bool(tokens)
        answer = self._parted(tokens).answer
        return answer is not None and self.rule.ends(answer)

    def said(self, tokens: Sequence[int]) -> Said:
        """Return the answer in what a model wrote, and its thought."""
        parted = self._parted(tokens[:-1] if tokens and tokens[-1] in self.stops else tokens)
        answer = "" if parted.answer is None else self.rule.answer(parted.answer)
        return Said(answer) if self._thoughts is None else Said(answer, parted.thought, parted.answer is None)

    def _answered(self, tokens: Sequence[int], reference: str | None, *, whole: bool) -> bool:
        """Tell the same where a thought may come first, in which nothing ends an answer."""
        assert self._thoughts is not None  # noqa: S101  # as asked above
        if reference is None and not whole:
            return True
        text = None if self._thoughts.may_begin(tokens) else self._thoughts.parted(tokens).answer
        if text is None:
            return False
        return self.rule.ends(text) or (not whole and not self.rule.may_become(text, str(reference)))

    def _parted(self, tokens: Sequence[int]) -> Parted:
        if self._thoughts is not None:
            return self._thoughts.parted(tokens)
        return Parted("", self._text(tokens), tokens)

    def _has_stop_text(self, tokens: Sequence[int]) -> bool:
        recent = self._text(tokens[-self._window :])  # cheaper than all of a long answer
        return self.rule.occurs(recent) and self.rule.ends(self._text(tokens))

    def _text(self, tokens: Sequence[int]) -> str:
        """Return tokens as text: without special ones, but those that belong to expected answers."""
        pieces: list[str] = []
        for is_mark, run in itertools.groupby(tokens, key=self._marks.__contains__):
            ids = list(run)
            if is_mark:
                pieces += self._tokenizer.convert_ids_to_tokens(ids)
            else:
                text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
                pieces.append(str(text))
        return "".join(pieces)


def _marks(tokenizer: PreTrainedTokenizerBase, prepared: Prepared, thoughts: ThoughtReader | None) -> frozenset[int]:
    """Special tokens that the chat template writes into answers, such as the one before a call of a tool.

    Without it a call is a text that happens to be JSON, so an answer that lacks it is another one. A row's own text
    never has special tokens. Those around a thought are no part of an answer.
    """
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    found: set[int] = set()
    for part in (prepared.parts[name] for name in ("validation", "test") if name in prepared.parts):
        places = np.flatnonzero(np.isin(part.tokens, list(special)))
        rows = np.searchsorted(part.offsets, places, side="right") - 1
        inside = places - part.offsets[rows] >= part.prompt_lengths[rows]
        inside &= places < part.offsets[rows + 1] - len(prepared.end_ids)
        if thoughts is None:
            found.update(np.unique(part.tokens[places[inside]]).tolist())
            continue
        for row in np.unique(rows[inside]).tolist():
            start, end = int(part.offsets[row] + part.prompt_lengths[row]), int(part.offsets[row + 1])
            answer = thoughts.answer_ids(part.tokens[start : end - len(prepared.end_ids)].tolist())
            found.update(special.intersection(answer))
    return frozenset(found - {tokenizer.unk_token_id} - (thoughts.opening if thoughts is not None else set()))
