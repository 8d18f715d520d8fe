"""Prepares a dataset: read, split, render, encode, check; what comes out is all that train needs besides the model.

The order matters: rows are split before anything is rendered, the label set comes from the train rows alone, and the
rows of all parts go through the same renderer and the same encoder. No torch here.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from finetune_api.job import Evaluation, FineTuneJobSpec
from finetune_api.reasons import Reason
from finetune_api.status import DatasetSummary, MetricName
from finetune_trainer.badrows import BadRowLog
from finetune_trainer.encode import Encoder, score_end_tokens, tokenizer_digest
from finetune_trainer.errors import StageError
from finetune_trainer.prepared import PARTS, ChoiceSet, EncodedPart, Part, Prepared
from finetune_trainer.preparedio import fingerprint, load_prepared, prepared_digest, save_prepared
from finetune_trainer.records import Record, key_records, project_records, read_table
from finetune_trainer.rowencoder import RowEncoder
from finetune_trainer.split import SplitResult, split_rows
from finetune_trainer.template.catalog import MESSAGES, PromptTemplate, resolve_template
from finetune_trainer.template.render import Renderer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["label_set", "load_prepared", "prepare", "prepared_digest", "save_prepared"]

MAX_LABELS: Final = 256
"""As many as ``dataset.template.choices`` may hold; a column with more values is no label."""

_CHUNK_ROWS: Final = 1024

_log = logging.getLogger(__name__)


def prepare(
    *,
    spec: FineTuneJobSpec,
    files: Mapping[str, Path],
    tokenizer: PreTrainedTokenizerBase,
    progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Turn dataset files into encoded rows.

    Parameters
    ----------
    spec
        ``dataset``, ``training.maxLength`` and ``evaluation`` are used.
    files
        Local files by ``all``, or by ``train``, ``validation``, ``test``; with the endings of their URIs.
    tokenizer
        The model's.
    progress
        Called with rows encoded and rows in all.

    Raises
    ------
    StageError
        DatasetInvalid, TemplateInvalid, ModelInvalid or InvalidSpec, with the row, column or field that is wrong.
    """
    template = resolve_template(spec.dataset.template)
    encoder = Encoder(tokenizer, max_length=spec.training.max_length, separator=template.separator)
    if template.name == MESSAGES and encoder.chat is None:
        raise StageError(
            Reason.TEMPLATE_INVALID,
            "dataset.template messages needs a model with a chat template, and this one has none; use an instruct "
            "model, or the templates instruction or raw",
        )
    bad = BadRowLog(spec.dataset.bad_rows)
    with contextlib.ExitStack() as stack:
        renderer: Renderer | None = None
        if template.name != MESSAGES:
            renderer = stack.enter_context(Renderer(template.prompt, template.completion))
        table = read_table(files, spec.dataset, bad)
        records = project_records(table, template, bad)
        inline = None if template.fields or renderer is None else (renderer.prompt_uses, renderer.completion_uses)
        keyed = key_records(records, spec.dataset, inline, table.columns)
        split = split_rows(keyed, spec.dataset.split, given=[r.part for r in records])
        sources = {part: [records[i] for i in split.parts[part]] for part in PARTS}
        _check_parts({p: len(sources[p]) for p in PARTS}, spec, files, bad)
        work = RowEncoder(
            template=template,
            renderer=renderer,
            encoder=encoder,
            bad=bad,
            columns=table.columns,
            choices=label_set(template, sources["train"]),
        )
        total = sum(len(s) for s in sources.values())
        done = 0
        for part in PARTS:
            for chunk in _chunks(sources[part]):
                work.encode(part, chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total)
    bad.check(table.rows)
    _check_parts({p: len(work.parts[p]) for p in PARTS}, spec, files, bad)
    return _assemble(spec, template, tokenizer, work, split, rows=table.rows)


def label_set(template: PromptTemplate, train: Sequence[Record]) -> tuple[str, ...] | None:
    """Choices that hold for every row: the spec's, else the labels of the train rows for templates that have labels.

    Raises
    ------
    StageError
        DatasetInvalid: a classification with one label, or with more than can be labels.
    """
    if template.choice_source != "labels":
        return template.choices
    labels = sorted({r.projected.answer for r in train if r.projected is not None})
    column = next(f.column for f in template.fields if f.name == template.answer)
    if len(labels) == 1:
        raise StageError(
            Reason.DATASET_INVALID,
            f"all {len(train)} train rows have the answer {labels[0]!r} in column {column!r}, so there is nothing to "
            "learn; give rows with at least two answers",
        )
    if template.choices is not None:
        return template.choices
    if len(labels) > MAX_LABELS:
        raise StageError(
            Reason.DATASET_INVALID,
            f"column {column!r} has {len(labels)} different values in the train rows, and template {template.name} is "
            f"for at most {MAX_LABELS} labels; use template instruction, qa or raw for open answers",
        )
    return tuple(labels)


def _chunks(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    for start in range(0, len(records), _CHUNK_ROWS):
        yield records[start : start + _CHUNK_ROWS]


def _check_parts(counts: Mapping[Part, int], spec: FineTuneJobSpec, files: Mapping[str, Path], bad: BadRowLog) -> None:
    """Make sure that no part is empty that must not be.

    Raises
    ------
    StageError
        DatasetInvalid: says which part, and what to change.
    """
    split = spec.dataset.split
    percents: dict[Part, int] = {
        "train": split.train_percent,
        "validation": split.validation_percent,
        "test": split.test_percent,
    }
    for part in PARTS:
        if counts[part] or (part == "validation" and part not in files and split.validation_percent == 0):
            continue
        dropped = f" ({bad.count} bad rows: {bad.examples()})" if bad.count else ""
        if part in files and part != "train":
            raise StageError(Reason.DATASET_INVALID, f"dataset.files.{part} has no row that can be used{dropped}")
        rest = "" if split.stratify_by else ", set split.stratifyBy for exact shares"
        raise StageError(
            Reason.DATASET_INVALID,
            f"no row fell into {part} (train {counts['train']}, validation {counts['validation']}, test "
            f"{counts['test']}){dropped}; give more rows with different inputs, raise split.{part}Percent above "
            f"{percents[part]}{rest}, or choose another split.seed",
        )


def _metric(evaluation: Evaluation, choice_sets: Sequence[ChoiceSet]) -> MetricName:
    if evaluation.metric == "Auto":
        return "ChoiceAccuracy" if choice_sets else "ExactMatch"
    if evaluation.metric == "ChoiceAccuracy" and not choice_sets:
        raise StageError(
            Reason.INVALID_SPEC,
            "evaluation.metric ChoiceAccuracy needs known choices; set dataset.template.choices, or metric ExactMatch",
        )
    return evaluation.metric


def _assemble(
    spec: FineTuneJobSpec,
    template: PromptTemplate,
    tokenizer: PreTrainedTokenizerBase,
    work: RowEncoder,
    split: SplitResult,
    *,
    rows: int,
) -> Prepared:
    parts: dict[Part, EncodedPart] = {p: b.build() for p, b in work.parts.items()}
    choice_sets = tuple(work.choice_sets)
    end_ids = work.encoder.end_ids
    longest = max(b.longest for b in work.parts.values())
    summary = DatasetSummary(
        rows=rows,
        dropped=work.bad.count,
        duplicates=split.duplicates,
        conflicts=split.conflicts,
        leaked=split.leaked,
        truncated=sum(b.truncated for b in work.parts.values()),
        train=len(parts["train"]),
        validation=len(parts["validation"]),
        test=len(parts["test"]),
        tokens=len(parts["train"].tokens),
        fingerprint=fingerprint(parts, choice_sets, end_ids),
    )
    if work.bad.count:
        _log.warning("%d of %d rows were left out: %s", work.bad.count, rows, work.bad.examples())
    return Prepared(
        parts=parts,
        texts={p: tuple(b.texts) for p, b in work.parts.items()},
        choice_sets=choice_sets,
        score_end_tokens=score_end_tokens(choice_sets),
        end_ids=end_ids,
        pad_id=work.encoder.pad_id,
        # A model that has learned to stop needs no more; one that has not is wrong whatever it adds.
        max_new_tokens=spec.evaluation.max_new_tokens or longest + max(8, longest // 4),
        metric=_metric(spec.evaluation, choice_sets),
        template_digest=template.digest,
        tokenizer_digest=tokenizer_digest(tokenizer),
        summary=summary,
    )
