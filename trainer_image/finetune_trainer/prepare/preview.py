"""What the template makes of the first train rows, as text: for writing a template without waiting for a training.

Goes through the same reading, splitting and rendering as prepare, so what is shown is what a job trains on; only the
tokens are left out, and with them the model and torch.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from finetune_api.stage import StageInput
from finetune_trainer.data.bad_rows import BadRowLog
from finetune_trainer.data.given_parts import resolved_percents
from finetune_trainer.data.parts import Part
from finetune_trainer.data.split import split_rows
from finetune_trainer.data.table import read_table
from finetune_trainer.prepare.encode_rows import RowEncoder
from finetune_trainer.prepare.keys import key_rows
from finetune_trainer.prepare.prepare import label_set, placed_rows
from finetune_trainer.prepare.prepared import TextRow
from finetune_trainer.process.console import no_progress
from finetune_trainer.storage.access import Access
from finetune_trainer.storage.rows import fetch_dataset
from finetune_trainer.storage.templatefile import fetch_template
from finetune_trainer.text.choices import ChoiceSet
from finetune_trainer.text.encode import Encoded, Example, NoRoom
from finetune_trainer.text.template.catalog import MESSAGES, resolve_template
from finetune_trainer.text.template.conversation import as_text_of_turn
from finetune_trainer.text.template.render import Renderer
from finetune_trainer.text.template.survey import AnswerSurvey

__all__ = ["preview"]

_SHOWN_MAYBE: Final = " (where the model's chat template shows it)"
"""Of a thought that is read and not learned; the model isn't there to ask."""


def preview(stage_input: StageInput, *, rows: int) -> Iterator[str]:
    """Yield one readable text for each of the first train rows.

    Raises
    ------
    StageError
        As prepare: DatasetNotFound, DatasetInvalid, TemplateInvalid, InvalidSpec.
    """
    dataset = stage_input.spec.dataset
    bad = BadRowLog(dataset)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="render-")))
        access = Access(storage=stage_input.storage, credentials_dir=folder / "no-credentials", scratch=folder)
        source = fetch_template(dataset.template, own=stage_input.template, access=access, folder=folder)
        template = resolve_template(dataset.template, source)
        files = fetch_dataset(dataset, access=access, folder=folder / "rows", progress=no_progress)
        renderer = None
        if template.name != MESSAGES:
            renderer = stack.enter_context(Renderer.of(template))
        survey = AnswerSurvey(template)
        table = read_table(files, dataset, bad, observe=survey.add)
        percents = bad.percents = resolved_percents(dataset, table.given)
        keyed = key_rows(table, template, dataset, renderer, bad, survey=survey)
        split = split_rows(keyed.keys, dataset.split, percents)
        texts = _TextOnly()
        encoder = RowEncoder(
            sink=texts,
            template=template,
            renderer=renderer,
            encoder=texts,
            bad=bad,
            columns=table.columns,
            choices=label_set(keyed, split),
            seed=dataset.split.seed,
            all_answers=dataset.template.learns_all,
        )
        train = (row for row in placed_rows(keyed, split) if row[0] == "train")
        for _ in encoder.encode([list(itertools.islice(train, rows))]):
            yield from texts.shown
        if bad.count:
            yield f"--- rows that can't be used: {bad.examples()}\n"


class _TextOnly:
    """Stands in the places of encoder and sink and keeps what it is given."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def choices(self, texts: Sequence[str]) -> ChoiceSet:
        return ChoiceSet(tuple(texts), tuple((index,) for index in range(len(texts))))

    def encode(self, examples: Sequence[Example]) -> list[Encoded | NoRoom | str]:
        for example in examples:
            lines = [f"=== {example.where}"]
            thought = example.turn.thought if example.turn is not None else ""
            answer = [*([("thought", thought)] if thought else []), ("completion", example.completion)]
            for name, text in [*_asked(example), *answer]:
                lines += [f"--- {name}", text]
            self.shown.append("\n".join(lines) + "\n\n")
        return [Encoded((), ()) for _ in examples]

    def add_choices(self, _choices: ChoiceSet) -> int:
        return 0

    def add(
        self, part: Part, row: Encoded, text: TextRow, *, choice_set: int, answer: int, unanswerable: int = 0
    ) -> None:
        """Keep nothing: what was encoded is shown already."""


def _asked(example: Example) -> Iterator[tuple[str, str]]:
    """What stands before the answer, each with its name; of a conversation the turns, with what was thought."""
    if isinstance(example.prompt, str):
        yield "prompt", example.prompt
        return
    for place, turn in enumerate(example.prompt):
        learned = " (learned too)" if place in example.earlier else ""
        if turn.thought:
            yield f"thought{learned or _SHOWN_MAYBE}", turn.thought
        yield f"{turn.role}{learned}", as_text_of_turn(turn)
