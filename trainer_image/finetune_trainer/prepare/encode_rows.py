"""Rows through renderer and encoder, chunk by chunk; the loop of ``prepare.py``."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Final, Protocol

from finetune_api.reasons import Reason
from finetune_trainer.data.bad_rows import BadRowLog
from finetune_trainer.data.parts import Part
from finetune_trainer.data.table import Record
from finetune_trainer.errors import StageError
from finetune_trainer.prepare.prepared import NO_ROOM, UNKNOWN_ANSWER, TextRow
from finetune_trainer.prepare.rendering import TemplateRow, context_of, why_unrendered
from finetune_trainer.text.choices import ChoiceSet
from finetune_trainer.text.encode import Encoded, Example, NoRoom
from finetune_trainer.text.template.catalog import PromptTemplate
from finetune_trainer.text.template.conversation import as_text_of_turn, plain_turn
from finetune_trainer.text.template.labels import find, unique_folds
from finetune_trainer.text.template.render import Renderer, Skipped, Unrendered
from finetune_trainer.text.template.wording import wording_of
from finetune_trainer.text.turns import answers_before

__all__ = ["ExampleEncoder", "RowEncoder", "RowSink"]


_Tokenised = tuple[Encoded, int] | NoRoom | str
"""Tokens with the number of their choice set, or why there are none."""
_NOTHING: Final = Encoded((), ())


class ExampleEncoder(Protocol):
    """What makes tokens of rendered rows: :class:`~finetune_trainer.text.encode.Encoder`, or who only looks at them."""

    def encode(self, examples: Sequence[Example]) -> list[Encoded | NoRoom | str]:
        """Encode rows; a text says why one can't be used."""

    def choices(self, texts: Sequence[str]) -> ChoiceSet:
        """Encode possible answers; ValueError where two are the same to the model."""


class RowSink(Protocol):
    """Where encoded rows go."""

    def add_choices(self, choices: ChoiceSet) -> int:
        """Take a choice set that has not come before and return its number; called from another thread than ``add``."""

    def add(
        self, part: Part, row: Encoded, text: TextRow, *, choice_set: int, answer: int, unanswerable: int = 0
    ) -> None:
        """Take a row; its numbers are those of :class:`~finetune_trainer.prepare.prepared.EncodedPart`."""


class RowEncoder:
    """Renders and encodes rows chunk by chunk.

    What is no row (it can't be rendered, the chat template refuses it) goes to the bad ones. What is merely hard (an
    answer that is no choice, more text than there is room for) goes there from train only: validation and test keep it
    as unanswerable, since a score over the rows that are left would be too good.

    Parameters
    ----------
    sink
        Takes the encoded rows.
    template, renderer, encoder
        What makes tokens of a row; no renderer for ``messages``.
    bad
        Takes the rows that fail.
    columns
        Of the data, to tell a column that this row lacks from one that no row has.
    choices
        The possible answers of every row; None where they are open or each row has its own.
    seed
        Chooses the wording of each train row, where the template has several.
    all_answers
        Whether train learns every answer of a conversation, not the last alone.

    Attributes
    ----------
    hard
        The first row of a part that can't be answered, with the reason.
    folded
        Rows of an inline template whose completion is spelt in another way than its choice; those of a named template
        are counted where its answer column is read.
    wordings
        Train rows that are kept, by their wording; empty where there is one for all.

    Raises
    ------
    StageError
        TemplateInvalid: ``choices`` has two that are the same tokens to this model.
    """

    def __init__(
        self,
        *,
        sink: RowSink,
        template: PromptTemplate,
        renderer: Renderer | None,
        encoder: ExampleEncoder,
        bad: BadRowLog,
        columns: Sequence[str],
        choices: tuple[str, ...] | None,
        all_answers: bool,
        seed: int = 0,
    ) -> None:
        self.template, self.renderer, self.encoder, self.bad, self.columns = template, renderer, encoder, bad, columns
        self.sink, self.choices, self.all_answers, self.seed = sink, choices, all_answers, seed
        self.wordings: Counter[str] = Counter()
        self.hard: dict[Part, str] = {}
        self.folded = 0
        self.left_out: Counter[tuple[int, Part]] = Counter()
        self._last_bad: dict[bool, Record] = {}
        self._folds = unique_folds(choices or ())
        self._numbers: dict[bytes, int] = {}  # of choice sets, by a digest: there may be one a row
        if choices is not None:
            try:
                self._choice_set(choices)
            except ValueError as e:
                raise StageError(Reason.TEMPLATE_INVALID, f"dataset.template: {e}") from e

    def encode(self, chunks: Iterable[Sequence[tuple[Part, TemplateRow]]]) -> Iterator[int]:
        """Render and encode rows, each of the part that the split gave it; rows that fail go to the bad ones.

        One chunk is tokenised while the next one is read and rendered.

        Parameters
        ----------
        chunks
            Rows in the order of their files; two chunks are held at once.

        Yields
        ------
        int
            Rows of each chunk that is done.

        Raises
        ------
        StageError
            TemplateInvalid or ModelInvalid: no row could be encoded; DatasetInvalid: a bad row where none may be.
        """
        with ThreadPoolExecutor(max_workers=1) as thread:
            tokenised: Future[list[_Tokenised]] | None = None
            rendered: list[tuple[Part, Record, Example]] = []
            size = 0
            for chunk in chunks:
                following = list(self._render(chunk))
                next_one = thread.submit(self._tokenise, [example for _, _, example in following])
                if tokenised is not None:
                    self._store(rendered, tokenised.result())
                    yield size
                tokenised, rendered, size = next_one, following, len(chunk)
            if tokenised is not None:
                self._store(rendered, tokenised.result())
                yield size

    def default_examples(self, rows: Sequence[TemplateRow]) -> Iterator[Example | None]:
        """Render rows once more as the sealed ones are, in the default wording; None for one that can't be.

        Nothing is counted and nothing goes to the bad ones: that was done where the rows were encoded.
        """
        assert self.renderer is not None  # noqa: S101  # conversations have no wording, and no few-shot baseline
        contexts = ((r.record.where, context_of(self.template, r, self._choices_of(r))) for r in rows)
        for row, result in zip(rows, self.renderer.render(contexts), strict=True):
            if isinstance(result, Unrendered | Skipped):
                yield None
                continue
            choices = result.choices or self._choices_of(row)
            completion = result.completion
            if row.projected is None:
                completion = self._choice_in(completion, choices) or completion
            yield Example(row.record.where, result.prompt, completion, choices, result.spans)

    def _tokenise(self, examples: Sequence[Example]) -> list[_Tokenised]:
        """Encode rows, with the number of each one's choice set; in one thread, as tokenizers serve one at a time."""
        results: list[_Tokenised] = []
        for example, result in zip(examples, self.encoder.encode(examples), strict=True):
            if isinstance(result, str | NoRoom):
                results.append(result)
                continue
            try:
                results.append((result, self._choice_set(example.choices) if example.choices else -1))
            except ValueError as e:
                results.append(str(e))
        return results

    def _store(self, rendered: Sequence[tuple[Part, Record, Example]], results: Sequence[_Tokenised]) -> None:
        for (part, record, example), result in zip(rendered, results, strict=True):
            if isinstance(result, str):
                self._leave_out(record, result, part, stored=True)
                continue
            if isinstance(result, NoRoom):
                encoded, choice_set, kind, why = _NOTHING, -1, NO_ROOM, result.why
            else:
                encoded, choice_set = result
                why = self._no_choice(example)
                kind = UNKNOWN_ANSWER if why else 0
            if why and part == "train":
                self._leave_out(record, why, part, stored=True)
                continue
            if why:
                self.hard.setdefault(part, f"{record.where}: {why}")
            answer = -1 if choice_set < 0 or why else example.choices.index(example.completion)
            text = _text_row(record, example, encoded, why)
            if example.wording is not None:
                self.wordings[self.template.wordings[example.wording][0]] += 1
            self.sink.add(part, encoded, text, choice_set=choice_set, answer=answer, unanswerable=kind)

    def _leave_out(self, record: Record, why: str, part: Part, *, stored: bool) -> None:
        """Count a bad row; one that is taken more than once, by its source's weight, is one bad row."""
        self.left_out[record.source, part] += 1
        if self._last_bad.get(stored) is not record:  # rendering is a chunk ahead of storing
            self._last_bad[stored] = record
            self.bad.add(record.where, why, part)

    def _render(self, rows: Sequence[tuple[Part, TemplateRow]]) -> Iterator[tuple[Part, Record, Example]]:
        if self.renderer is None:
            for part, row in rows:
                assert row.projected is not None  # noqa: S101  # messages is a named template
                projected, where = row.projected, row.record.where
                earlier = answers_before(projected.messages) if part == "train" and self.all_answers else ()
                example = Example(where, projected.messages, projected.answer, self._choices_of(row), earlier=earlier)
                example = replace(example, turn=projected.turn)
                yield part, row.record, example
            return
        contexts = ((r.record.where, context_of(self.template, r, self._choices_of(r))) for _, r in rows)
        wordings = [self._wording_of(part, row) for part, row in rows]
        results = self.renderer.render(contexts, wordings)
        for (part, row), result, wording in zip(rows, results, wordings, strict=True):
            record = row.record
            if isinstance(result, Unrendered):
                why = why_unrendered(self.template, record, result, self.columns)
                self._leave_out(record, why, part, stored=False)
                continue
            if isinstance(result, Skipped):
                continue  # left out already where the keys were made
            choices = result.choices or self._choices_of(row)
            completion = result.completion
            if row.projected is None:
                completion = self._as_choice(completion, choices)
            yield part, record, Example(record.where, result.prompt, completion, choices, result.spans, wording)

    def _wording_of(self, part: Part, row: TemplateRow) -> int | None:
        """Train rows alone have other wordings: what is measured is asked in one way, before and after."""
        if part != "train" or not self.template.wordings or row.projected is None:
            return None
        return wording_of(self.seed, row.projected.inputs, len(self.template.wordings))

    def _as_choice(self, completion: str, choices: tuple[str, ...]) -> str:
        """The choice that an inline template's completion spells; itself where it spells none."""
        choice = self._choice_in(completion, choices)
        if choice is None:
            return completion
        # Outer white space may be the template's own, so it is no spelling of the row.
        self.folded += choice.strip() != completion.strip()
        return choice

    def _choice_in(self, completion: str, choices: tuple[str, ...]) -> str | None:
        return find(completion, choices, self._folds if choices == self.choices else None)

    def _choices_of(self, row: TemplateRow) -> tuple[str, ...]:
        if self.choices is not None:
            return self.choices
        own = row.projected.choices if row.projected is not None else None
        return own or ()

    def _no_choice(self, example: Example) -> str:
        """Say that the answer is none of the choices; empty where it is one, or answers are open."""
        if not example.choices or example.completion in example.choices:
            return ""
        shown = repr(example.completion if len(example.completion) <= 60 else example.completion[:57] + "...")
        if self.choices is None:
            return f"the answer {shown} is none of its row's choices"
        if self.template.choices is None:
            return f"the answer {shown} is no label of the train rows; list it in template.choices"
        if self.template.own_choices:
            return f"the answer {shown} is none of the choices of template {self.template.name}"
        return f"the answer {shown} is none of dataset.template.choices"

    def _choice_set(self, choices: tuple[str, ...]) -> int:
        digest = hashlib.blake2b(json.dumps(choices).encode(), digest_size=16).digest()
        number = self._numbers.get(digest)
        if number is None:
            number = self._numbers[digest] = self.sink.add_choices(self.encoder.choices(choices))
        return number


def _text_row(record: Record, example: Example, encoded: Encoded, why: str) -> TextRow:
    """A row as text, its prompt as it was encoded."""
    source = example.prompt if encoded.source is None else encoded.source
    turns = () if isinstance(source, str) else tuple(plain_turn(m) for m in source)
    prompt = source if isinstance(source, str) else "\n\n".join(f"{m.role}: {as_text_of_turn(m)}" for m in source)
    completion = encoded.written or example.completion
    thought = example.turn.thought if example.turn is not None else ""
    return TextRow(record.number, prompt, completion, why, turns, encoded.truncated, record.file, thought)
