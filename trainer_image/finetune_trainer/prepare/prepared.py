"""What prepare hands to train: encoded rows of the three parts and everything needed to score them.

Flat numpy arrays, so that nothing is tokenised twice and both stages provably see the same rows. ``folder.py`` maps
them from files: what grows with the dataset takes memory only where it is touched. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from finetune_api.dataset import Percents
from finetune_api.status import DatasetSummary, MetricName
from finetune_trainer.data.parts import Part
from finetune_trainer.text.call_format import CallFormat
from finetune_trainer.text.choices import ChoiceSet
from finetune_trainer.text.thought_format import Thoughts

__all__ = ["NO_ROOM", "UNKNOWN_ANSWER", "EncodedPart", "Prepared", "Shot", "TextRow"]

UNKNOWN_ANSWER: Final = 1
"""Of ``EncodedPart.unanswerable``: the expected answer is none of the choices. Its tokens are there."""
NO_ROOM: Final = 2
"""Of ``EncodedPart.unanswerable``: prompt and expected answer do not fit into maxLength. The row has no tokens."""


@dataclass(frozen=True, slots=True)
class TextRow:
    """A row as text, kept for validation and test rows, for the report and for comparing answers.

    Attributes
    ----------
    prompt
        As it was encoded, so without what was cut from one that was too long.
    unanswerable
        Why no answer can be right; empty where one can.
    turns
        The turns before the answer, where the prompt is a conversation, else empty: role, content, and where a turn has
        them its other keys as JSON. The first may hold the tools that are offered (role ``tools``).
    shortened
        Whether something was cut from it to fit maxLength.
    file
        Of which ``row`` is a line, where the rows of its part come from several files; else empty.
    thought
        What is thought before the expected answer; empty without.
    """

    row: int
    prompt: str
    completion: str
    unanswerable: str = ""
    turns: tuple[tuple[str, ...], ...] = ()
    shortened: bool = False
    file: str = ""
    thought: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """A train row as an example of the few-shot baseline: whole, in the wording of the sealed rows.

    Attributes
    ----------
    where
        Where it stands, in words ("line 7").
    """

    prompt: str
    completion: str
    where: str


@dataclass(frozen=True, eq=False)
class EncodedPart:
    """Encoded rows of one part; n rows. The arrays may be read-only.

    Attributes
    ----------
    tokens
        int32 (sum of lengths,): prompt ids, then completion ids with the end tokens, row after row.
    offsets
        int64 (n + 1,): row i is ``tokens[offsets[i]:offsets[i + 1]]``.
    prompt_lengths
        int32 (n,): how many of a row's tokens are prompt.
    rows
        int64 (n,): number of the row in its source file, from 1.
    choice_set
        int32 (n,): index into ``Prepared.choice_sets``, -1 without choices.
    answer
        int32 (n,): index of the right answer in its choice set, -1 without choices or where it is none of them.
    gaps
        int32 (3 m,): row, from and up to (positions in the row) of each stretch behind the prompt that is read and not
        learned, in order; what stands between the answers of a conversation. Validation and test have none.
    called
        int32 (m,): places of the rows whose expected answer calls tools in a way that can be read back out of its text,
        in order; such an answer is compared as JSON (:class:`~finetune_trainer.text.call_format.CallFormat`).
    unanswerable
        int32 (n,): 0, or why no answer can be right: :data:`UNKNOWN_ANSWER` or :data:`NO_ROOM`. Such a row is kept in
        validation and test, and counts as wrong under every metric and for every model; train has none.
    """

    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]
    prompt_lengths: NDArray[np.int32]
    rows: NDArray[np.int64]
    choice_set: NDArray[np.int32]
    answer: NDArray[np.int32]
    unanswerable: NDArray[np.int32]
    gaps: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    called: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))

    def __len__(self) -> int:
        return len(self.prompt_lengths)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """int64 (n,): tokens of each row, prompt and completion."""
        return np.diff(self.offsets)

    @cached_property
    def completion_lengths(self) -> NDArray[np.int64]:
        """int64 (n,): completion tokens of each row that are learned, end tokens included."""
        rows, starts, ends = self.gaps.reshape(-1, 3).astype(np.int64).T
        unlearned = np.bincount(rows, ends - starts, minlength=len(self)).astype(np.int64)
        return self.lengths - self.prompt_lengths - unlearned

    def learned(self, row: int) -> NDArray[np.int64]:
        """Return the positions in a row of the tokens that are learned."""
        places = np.arange(self.prompt_lengths[row], self.lengths[row], dtype=np.int64)
        for start, end in self._gaps_of(row):
            places = places[(places < start) | (places >= end)]
        return places

    def calls(self, row: int) -> bool:
        """Whether the expected answer of a row is calls of tools that can be read back."""
        at = int(np.searchsorted(self.called, row))
        return at < len(self.called) and int(self.called[at]) == row

    def asked_length(self, row: int) -> int:
        """Tokens before the last answer of a row: its prompt, and the answers before that one."""
        gaps = self._gaps_of(row)
        return gaps[-1][1] if gaps else int(self.prompt_lengths[row])

    def _gaps_of(self, row: int) -> list[list[int]]:
        first, last = self._gap_offsets[row : row + 2] if len(self.gaps) else (0, 0)
        gaps: list[list[int]] = self.gaps.reshape(-1, 3)[first:last, 1:].tolist()
        return gaps

    @cached_property
    def _gap_offsets(self) -> NDArray[np.int64]:
        """int64 (n + 1,): row i has the gaps from ``[i]`` up to ``[i + 1]``."""
        offsets: NDArray[np.int64] = np.searchsorted(self.gaps[::3], np.arange(len(self) + 1))
        return offsets


@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """All that train needs besides the model.

    Attributes
    ----------
    choice_sets
        Distinct choice sets; empty when answers are open.
    score_end_tokens
        True when some choice's tokens begin another's: the end tokens then count in every choice's likelihood.
    end_ids
        Token ids that close every completion (EOS, or the chat template's end of turn).
    texts
        validation and test rows as text, in the order of the encoded rows; of train the first few, as a preview.
    metric
        The resolved metric.
    stop
        Texts that end a generated answer (:class:`~finetune_trainer.text.stop.StopRule`), before and after alike.
    max_new_tokens
        Bound of a generated answer.
    percents
        By which the rows of train were cut.
    separator
        Between prompt and completion for a model without chat template.
    wordings
        Train rows by the wording of their prompt; empty where there is one for all.
    few_shot
        Examples of the few-shot baseline, in their order; empty where none was asked for, or no train row is fit.
    thoughts
        Where the thought ends in an answer; None where answers have none.
    calls
        How calls of tools stand in an answer; None where the chat template writes them in no way that can be read back.
    thought_rows
        Rows read that have a thought before an answer, which is learned with it.
    inputs
        Digest of what was read for each field of the spec that names rows; none of a hub's, which have a commit.
    template_source
        Text of the file that ``dataset.template`` names; None where it names none.
    """

    parts: dict[Part, EncodedPart]
    texts: dict[Part, Sequence[TextRow]]
    choice_sets: Sequence[ChoiceSet]
    score_end_tokens: bool
    end_ids: tuple[int, ...]
    pad_id: int
    stop: tuple[str, ...] = ()
    max_new_tokens: int
    metric: MetricName
    separator: str = " "
    wordings: Mapping[str, int] = field(default_factory=dict)
    few_shot: tuple[Shot, ...] = ()
    thoughts: Thoughts | None = None
    calls: CallFormat | None = None
    thought_rows: int = 0
    template_digest: str
    tokenizer_digest: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    template_source: str | None = None
    percents: Percents | None = None
    summary: DatasetSummary

    @property
    def scores_calls(self) -> bool:
        """Whether some test rows expect calls of tools that are compared as JSON."""
        return self.calls is not None and len(self.parts["test"].called) > 0
