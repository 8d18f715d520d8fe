"""Parts what a model thinks from what it answers; the answer alone is compared and scored.

A model that has begun a thought has not answered before it ends it, however much it writes. One that begins none
answers at once. Where a control token ends a thought, that token does, and not its spelling in a text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from finetune_trainer.text.control import ControlTokens
from finetune_trainer.text.thought_format import Thoughts

__all__ = ["Parted", "ThoughtReader"]


Spell = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True)
class Parted:
    """What a model wrote.

    Attributes
    ----------
    thought
        What was thought, without the marks around it.
    answer
        What follows the thought, or all of it where there is none; None where the thought has not ended.
    ids
        Tokens in which the answer stands; those of all of it where they can't be told apart.
    """

    thought: str
    answer: str | None
    ids: Sequence[int]


class ThoughtReader:
    """Reads what one model writes.

    Parameters
    ----------
    spell
        Writes the tokens of an answer as text; as the tokenizer does, without special ones, where none is given.

    Attributes
    ----------
    mark
        Tokens that end a thought where control tokens do; else empty, and its text does.
    opening
        Tokens that begin one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, thoughts: Thoughts, *, spell: Spell | None = None) -> None:
        self._tokenizer, self._thoughts = tokenizer, thoughts
        self._spell = spell if spell is not None else self._text
        mark: list[int] = tokenizer(thoughts.closing, add_special_tokens=False, verbose=False)["input_ids"]
        control = ControlTokens(tokenizer).ids
        places = [at for at, token in enumerate(mark) if token in control]
        # Some vocabularies put a blank before every text; it is no part of the mark.
        self.mark = tuple(mark[places[0] : places[-1] + 1]) if places else ()
        opening: list[int] = tokenizer(thoughts.opening, add_special_tokens=False, verbose=False)["input_ids"]
        self.opening = frozenset(opening)
        self._first = 2 * len(thoughts.opening.encode()) + 16

    def parted(self, tokens: Sequence[int]) -> Parted:
        """Part what was written; tokens that end an answer are left out beforehand."""
        if not self._begins(tokens):
            return Parted("", self._spell(tokens), tokens)
        if not self.mark:
            thought, closed, answer = self._spell(tokens).partition(self._thoughts.closing)
            return Parted(self._bare(thought), answer if closed else None, tokens)
        end = self._end(tokens)
        if end is None:
            return Parted(self._bare(self._text(tokens)), None, tokens)
        rest = tokens[end + len(self.mark) :]
        return Parted(self._bare(self._text(tokens[:end])), self._spell(rest), rest)

    def answer_ids(self, tokens: Sequence[int]) -> Sequence[int]:
        """Return the tokens in which the answer stands; all of them where they can't be told apart."""
        if not self.mark or not self._begins(tokens):
            return tokens
        end = self._end(tokens)
        return () if end is None else tokens[end + len(self.mark) :]

    def may_begin(self, tokens: Sequence[int]) -> bool:
        """Tell whether what is written so far may become the beginning of a thought."""
        return self._thoughts.opening.startswith(self._start(tokens).rstrip("\ufffd"))

    def _begins(self, tokens: Sequence[int]) -> bool:
        return self._start(tokens).startswith(self._thoughts.opening)

    def _start(self, tokens: Sequence[int]) -> str:
        return self._text(tokens[: self._first], special=True).lstrip()

    def _end(self, tokens: Sequence[int]) -> int | None:
        size = len(self.mark)
        places = (at for at in range(len(tokens) - size + 1) if tokens[at] == self.mark[0])
        return next((at for at in places if tuple(tokens[at : at + size]) == self.mark), None)

    def _bare(self, text: str) -> str:
        return text.strip().removeprefix(self._thoughts.opening).strip()

    def _text(self, tokens: Sequence[int], *, special: bool = False) -> str:
        return str(
            self._tokenizer.decode(list(tokens), skip_special_tokens=not special, clean_up_tokenization_spaces=False)
        )
