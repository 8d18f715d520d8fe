"""The test rows once more, each with examples before it: what the untouched model is asked for the few-shot baseline.

A chat model gets the examples as former turns of the conversation, any other one as blocks of text parted by an empty
line. All rows get the same examples in the same order, so what they share is computed once; a row beside which not all
of them fit into ``maxLength`` gets as many as fit, from the first on. No example is ever cut, and nothing else of a row
differs from the zero-shot baseline: its own text, its answer, its choices. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.prepare.arrayfile import GrowingColumn, map_arrays, write_arrays
from finetune_trainer.prepare.prepared import NO_ROOM, EncodedPart, Prepared, Shot, TextRow
from finetune_trainer.text.encode import Encoder
from finetune_trainer.text.example import Encoded, Example, Ids, NoRoom, Source
from finetune_trainer.text.template.conversation import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["BETWEEN", "FewShotRows", "few_shot_rows"]

BETWEEN: Final = "\n\n"
"""Between the blocks of a model without a chat template."""
_NO_BOUND: Final = 2**31
_ANY_ANSWER: Final = "a"
_MARGIN: Final = 16
"""Tokens by which the same examples may differ beside another row."""
_CHUNK: Final = 256

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class FewShotRows:
    """The test part with examples before its rows.

    Attributes
    ----------
    part
        In the order of the test part; rows that aren't asked have no tokens.
    of_rows
        int64, for each of the given rows: how many examples it got; 0 for one that does not fit at all.
    examples, context
        int64, for each row that is asked: the same, and the tokens that they add to its prompt.
    refused
        Why a row could not take an example that there was room for; empty where that never was.
    """

    part: EncodedPart
    of_rows: Ints
    examples: Ints
    context: Ints
    refused: str

    @property
    def most(self) -> int:
        """Examples that the row with the most of them got; 0: there is no few-shot baseline."""
        return int(self.examples.max(initial=0))

    @property
    def fewer(self) -> int:
        """Rows that got fewer."""
        return int((self.examples < self.most).sum())

    @property
    def context_tokens(self) -> int:
        """Mean tokens that the examples add to a prompt."""
        return round(float(self.context.mean())) if len(self.context) else 0


def few_shot_rows(
    prepared: Prepared,
    tokenizer: PreTrainedTokenizerBase,
    rows: Ints,
    *,
    max_length: int,
    folder: Path,
    encoder_decoder: bool = False,
) -> FewShotRows:
    """Encode test rows with the examples that prepare chose.

    Parameters
    ----------
    rows
        Positions of the test rows that are asked.
    max_length
        Bound of a prompt with its longest answer, in tokens.
    folder
        Gets a file with the tokens.
    encoder_decoder
        Whether the model has an encoder for prompts, which its tokenizer then ends as it ends every text;
        ``max_length`` bounds a prompt alone.

    Raises
    ------
    StageError
        ModelInvalid, as prepare would.
    """
    builder = _Builder(prepared, tokenizer, max_length, encoder_decoder=encoder_decoder)
    part = prepared.parts["test"]
    asked = {int(row): at for at, row in enumerate(rows) if part.unanswerable[row] != NO_ROOM}
    tokens = GrowingColumn(folder / "few_shot.tokens", "<i4")
    lengths, prompts = np.zeros(len(part), np.int64), np.zeros(len(part), np.int32)
    examples, context = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    order = sorted(asked)
    for start in range(0, len(order), _CHUNK):
        chunk = order[start : start + _CHUNK]
        for row, (count, prompt) in zip(chunk, builder.prompts(chunk), strict=True):
            completion = _completion(part, row)
            tokens.extend(prompt)
            tokens.extend(completion)
            lengths[row], prompts[row] = len(prompt) + len(completion), len(prompt)
            examples[asked[row]] = count
            context[asked[row]] = len(prompt) - int(part.prompt_lengths[row])
    path = folder / "few_shot.safetensors"
    write_arrays(path, {"tokens": tokens})
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    shown = replace(part, tokens=map_arrays(path)["tokens"], offsets=offsets, prompt_lengths=prompts)
    fits = np.array(sorted(asked.values()), dtype=np.int64)
    return FewShotRows(
        part=shown, of_rows=examples, examples=examples[fits], context=context[fits], refused=builder.refused
    )


class _Builder:
    """Makes prompts with as many of the examples as fit."""

    def __init__(
        self, prepared: Prepared, tokenizer: PreTrainedTokenizerBase, max_length: int, *, encoder_decoder: bool
    ) -> None:
        self._part, self._texts = prepared.parts["test"], prepared.texts["test"]
        self._shots, self._separator, self._max_length = prepared.few_shot, prepared.separator, max_length
        # Nothing is shortened here: what doesn't fit gets fewer examples.
        self._encoder = Encoder(
            tokenizer, max_length=_NO_BOUND, separator=prepared.separator, encoder_decoder=encoder_decoder
        )
        self._apart = encoder_decoder
        ends = len(prepared.end_ids)
        self._longest = [max(map(len, choices.ids)) + ends for choices in prepared.choice_sets]
        self._taken: dict[int, int] = {}
        self.refused = ""

    def prompts(self, rows: Sequence[int]) -> list[tuple[int, Ids]]:
        """Return for each row how many examples it gets, and its prompt."""
        found: dict[int, tuple[int, Ids]] = {}
        for count in range(len(self._shots), 0, -1):
            tried = [row for row in rows if row not in found and self._may_fit(row, count)]
            for row, result in zip(tried, self._encode(tried, count), strict=True):
                if not isinstance(result, Encoded):
                    self.refused = self.refused or str(result)
                elif len(result.prompt) + self._answer(row) <= self._max_length:
                    found[row] = count, result.prompt
        return [found.get(row) or (0, _prompt(self._part, row)) for row in rows]

    def _may_fit(self, row: int, count: int) -> bool:
        """Whether it is worth trying, by what the examples took in the first row that was tried with them."""
        own = int(self._part.prompt_lengths[row])
        if count not in self._taken:
            (result,) = self._encode([row], count)
            self._taken[count] = len(result.prompt) - own if isinstance(result, Encoded) else 0
        return own + self._taken[count] + self._answer(row) <= self._max_length + _MARGIN

    def _encode(self, rows: Sequence[int], count: int) -> Sequence[Encoded | NoRoom | str]:
        """Encode prompts; the answer is any one, since a row's own has its tokens already."""
        sources = [self._source(self._texts[row], self._shots[:count]) for row in rows]
        return self._encoder.encode([Example("", source, _ANY_ANSWER) for source in sources])

    def _answer(self, row: int) -> int:
        """Tokens of the longest answer that a row may get; none where answers have room of their own."""
        if self._apart:
            return 0
        number = int(self._part.choice_set[row])
        own = int(self._part.lengths[row] - self._part.prompt_lengths[row])
        return max(own, self._longest[number]) if number >= 0 else own

    def _source(self, text: TextRow, shots: Sequence[Shot]) -> Source:
        if self._encoder.chat is None:
            blocks = [f"{shot.prompt}{self._separator}{shot.completion}" for shot in shots]
            return BETWEEN.join([*blocks, text.prompt])
        turns = [
            turn for shot in shots for turn in (Message("user", shot.prompt), Message("assistant", shot.completion))
        ]
        return (*turns, Message("user", text.prompt))


def _prompt(part: EncodedPart, row: int) -> Ids:
    start = int(part.offsets[row])
    return tuple(part.tokens[start : start + int(part.prompt_lengths[row])].tolist())


def _completion(part: EncodedPart, row: int) -> Ids:
    start = int(part.offsets[row]) + int(part.prompt_lengths[row])
    return tuple(part.tokens[start : int(part.offsets[row + 1])].tolist())
