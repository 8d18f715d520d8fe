"""Prepares a dataset: read, split, render, encode, check; what comes out is all that train needs besides the model.

The order matters: a row's part follows from its own prompt, before anything is tokenised; the label set comes from the
train rows alone, and the rows of all parts go through the same renderer and the same encoder. Rows are read anew in
each pass and written as they come, so that memory holds some 70 bytes of each, whatever its length. No torch here.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from finetune_api.job import FineTuneJobSpec
from finetune_api.reasons import Reason
from finetune_api.status import DatasetSummary, NearDuplicates, SourceRows, TruncatedField
from finetune_trainer.data.bad_rows import BadRowLog
from finetune_trainer.data.given_parts import resolved_percents
from finetune_trainer.data.mixed import copies_of_rows
from finetune_trainer.data.near import NearRows
from finetune_trainer.data.parts import PARTS, Part
from finetune_trainer.data.split import SplitResult, split_rows
from finetune_trainer.data.table import read_table
from finetune_trainer.errors import StageError
from finetune_trainer.prepare.checks import check_answerable, check_parts, check_thoughts
from finetune_trainer.prepare.encode_rows import RowEncoder
from finetune_trainer.prepare.few_shot import candidates, choose
from finetune_trainer.prepare.folder import Rest, load_prepared, prepared_digest
from finetune_trainer.prepare.folder_writer import PreparedWriter
from finetune_trainer.prepare.keys import KeyedTable, hash_of_answer, key_rows
from finetune_trainer.prepare.metric import metric_for
from finetune_trainer.prepare.prepared import Prepared
from finetune_trainer.prepare.remarks import tell_of_promptsource, tell_of_thoughts, warn_of_text
from finetune_trainer.prepare.rendering import TemplateRow
from finetune_trainer.process.console import Steps, no_steps
from finetune_trainer.storage.rowfiles import RowFile, content_digests, given_files, revision_of
from finetune_trainer.text.encode import Encoder, tokenizer_digest
from finetune_trainer.text.stop import stop_texts
from finetune_trainer.text.template.catalog import MESSAGES, PromptTemplate, resolve_template
from finetune_trainer.text.template.render import Renderer
from finetune_trainer.text.template.survey import AnswerSurvey

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["label_set", "load_prepared", "placed_rows", "prepare", "prepared_digest"]

MAX_LABELS: Final = 256
"""As many as ``dataset.template.choices`` may hold; a column with more values is no label."""

_CHUNK_ROWS: Final = 1024
_CHUNK_BYTES: Final = 2**19

_log = logging.getLogger(__name__)


def prepare(
    *,
    spec: FineTuneJobSpec,
    files: Mapping[str, Path] | Sequence[RowFile],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    template_source: str | None = None,
    encoder_decoder: bool = False,
    step: Steps = no_steps,
) -> Prepared:
    """Turn dataset files into encoded rows, and write them as a prepared folder.

    Parameters
    ----------
    spec
        ``dataset``, ``training.maxLength`` and ``evaluation`` are used.
    files
        Local files in the order of reading, or paths by ``all``, or by ``train``, ``validation``, ``test``; with the
        endings of their URIs.
    tokenizer
        The model's.
    folder
        Gets the files of ``PREPARED_FILES``; scratch files lie beside it meanwhile.
    template_source
        Text of the file that ``dataset.template`` names, if it names one.
    encoder_decoder
        Whether the model has an encoder for prompts.
    step
        Begins each pass over the rows: ``read_rows``, ``split_rows`` and ``encode_rows``, which count rows.

    Returns
    -------
    Prepared
        The rows, mapped from ``folder``.

    Raises
    ------
    StageError
        DatasetInvalid, TemplateInvalid, ModelInvalid or InvalidSpec, with the row, column or field that is wrong.
    """
    template = resolve_template(spec.dataset.template, template_source)
    encoder = _encoder(spec, template, tokenizer, encoder_decoder=encoder_decoder)
    bad = BadRowLog(spec.dataset)
    rows = given_files(files, spec.dataset)
    with contextlib.ExitStack() as stack:
        renderer: Renderer | None = None
        if template.name != MESSAGES:
            renderer = stack.enter_context(Renderer.of(template))
        survey = AnswerSurvey(template)
        with step("read_rows", "read the rows") as progress:
            table = read_table(rows, spec.dataset, bad, progress=progress, observe=survey.add)
        percents = bad.percents = resolved_percents(spec.dataset, table.given)
        near_rows = stack.enter_context(NearRows(folder.with_name(f".{folder.name}-near")))
        with step("split_rows", "split the rows") as progress:
            keyed = key_rows(
                table, template, spec.dataset, renderer, bad, survey=survey, near=near_rows, progress=progress
            )
            if keyed.thoughts:
                encoder = _encoder(spec, template, tokenizer, encoder_decoder=encoder_decoder, thoughts=keyed.thoughts)
            split = split_rows(keyed.keys, spec.dataset.split, percents)
            drop = spec.dataset.near_duplicates == "Drop"
            if drop:
                split, near, repeating = _near(split, near_rows, drop=True)
            copies = copies_of_rows(split.sides, keyed.sources, spec.dataset)
            split = replace(split, sides=np.where(copies > 0, split.sides, np.int8(-1)))
            if not drop:  # of the rows that are learned, after the weights
                split, near, repeating = _near(split, near_rows, drop=False)
        shots, seed = spec.evaluation.few_shot or 0, spec.dataset.split.seed
        drawn = candidates(keyed, split, copies, repeating, seed=seed) if shots else []
        noted: dict[int, TemplateRow | None] = dict.fromkeys(drawn)
        fell = {part: split.count(part) for part in PARTS}
        check_parts(fell, spec, percents, table.given, bad, largest=split.largest)
        bad.check_parts(fell)
        writer = stack.enter_context(PreparedWriter(folder))
        encoder_of_rows = RowEncoder(
            sink=writer,
            template=template,
            renderer=renderer,
            encoder=encoder,
            bad=bad,
            columns=table.columns,
            choices=label_set(keyed, split),
            seed=seed,
            all_answers=spec.dataset.template.learns_all,
        )
        done, total = 0, int(copies.sum())
        with step("encode_rows", "render and tokenise the rows") as progress:
            for encoded in encoder_of_rows.encode(_chunks(placed_rows(keyed, split, copies, noted))):
                done += encoded
                progress(done, total)
        bad.check(table.rows)
        check_parts(writer.counts, spec, percents, table.given, bad, largest=split.largest)
        bad.check_parts(fell)
        check_answerable(writer, encoder_of_rows.hard)
        if bad.count:
            _log.warning("%d of %d rows were left out: %s", bad.count, table.rows, bad.examples())
        warn_of_text(writer, template)
        tell_of_promptsource(template, keyed.skipped)
        metric = metric_for(
            spec.evaluation.metric,
            template.metric or "Auto",
            choice_sets=writer.choice_sets,
            thoughts=encoder.thoughts is not None,
        )
        summary = DatasetSummary(
            rows=table.rows,
            dropped=bad.count,
            skipped=keyed.skipped or None,
            dropped_by=bad.dropped_by(),
            test_unanswerable=writer.unanswerable["test"],
            duplicates=split.duplicates,
            conflicts=split.conflicts,
            leaked=split.leaked,
            sources=_by_source(table.read, keyed, split, copies, files=rows, left_out=encoder_of_rows.left_out),
            near_duplicates=near,
            truncated=writer.truncated,
            truncated_fields=[TruncatedField(name=n, rows=k) for n, k in writer.shortened.most_common(4)] or None,
            control_tokens=writer.control_tokens,
            folded_labels=keyed.folded + encoder_of_rows.folded,
            **writer.counts,
            train_answers=writer.answers if writer.answers != writer.counts["train"] else None,
            tokens=writer.tokens["train"],
            revision=revision_of(rows),
            fingerprint=writer.finish(encoder.end_ids),
        )
        writer.describe(
            Rest(
                score_end_tokens=writer.score_end_tokens,
                end_ids=encoder.end_ids,
                pad_id=encoder.pad_id,
                stop=stop_texts(spec.evaluation.stop, single_lines=writer.single_lines),
                # A model that has learned to stop needs no more; one that has not is wrong whatever it adds.
                max_new_tokens=spec.evaluation.max_new_tokens or writer.longest + max(8, writer.longest // 4),
                metric=metric,
                separator=template.separator,
                few_shot=choose(drawn, noted, encoder_of_rows, count=shots, seed=seed) if shots else (),
                wordings={name: encoder_of_rows.wordings[name] for name, _ in template.wordings},
                thoughts=encoder.thoughts and encoder.thoughts.marks,
                calls=encoder.calls,
                thought_rows=keyed.thoughts,
                percents=percents,
                inputs=content_digests(rows, spec.dataset),
                template_source=template_source if spec.dataset.template.file else None,
                template_digest=template.digest,
                tokenizer_digest=tokenizer_digest(tokenizer),
                summary=summary.to_wire(),
            )
        )
    return load_prepared(folder)


def _encoder(
    spec: FineTuneJobSpec,
    template: PromptTemplate,
    tokenizer: PreTrainedTokenizerBase,
    *,
    encoder_decoder: bool,
    thoughts: int = 0,
) -> Encoder:
    """Return what makes tokens of the rows, of which so many have a thought before an answer.

    Raises
    ------
    StageError
        ModelInvalid; TemplateInvalid: conversations, and the model has no chat template; InvalidSpec: thoughts, and
        something that can't be had with them.
    """
    if thoughts:
        check_thoughts(spec, rows=thoughts)
    encoder = Encoder(
        tokenizer,
        max_length=spec.training.max_length,
        separator=template.separator,
        thinking=thoughts > 0,
        encoder_decoder=encoder_decoder,
    )
    if template.name == MESSAGES and encoder.chat is None:
        raise StageError(
            Reason.TEMPLATE_INVALID,
            "dataset.template messages needs a model with a chat template, and this one has none; use an instruct "
            "model, or the templates instruction or raw",
        )
    tell_of_thoughts(encoder.thoughts, thoughts)
    return encoder


def _near(
    split: SplitResult, rows: NearRows, *, drop: bool
) -> tuple[SplitResult, NearDuplicates | None, NDArray[np.bool_]]:
    """Count the rows that are nearly alike in train and beyond, and mark those of train.

    With ``drop`` these are left out.

    Raises
    ------
    StageError
        DatasetInvalid: that would leave none.
    """
    near = rows.near(split.sides)
    found = int(near.train.sum())
    if not found:
        return split, None, near.train
    counts = {part: int((near.sealed & (split.sides == PARTS.index(part))).sum()) for part in ("validation", "test")}
    told = NearDuplicates(train=found, dropped=found if drop else 0, **counts)
    _log.warning(
        "%d train rows nearly repeat one of %d validation or %d test rows%s",
        found,
        told.validation,
        told.test,
        " and are left out" if drop else "; dataset.nearDuplicates: Drop in a new job leaves them out",
    )
    if drop and found == split.count("train"):
        raise StageError(
            Reason.DATASET_INVALID,
            f"all {found} train rows nearly repeat a validation or test row, and dataset.nearDuplicates Drop "
            "leaves none of them; give rows that differ in more than a few words, or set nearDuplicates to Report",
            tells_mend=True,
        )
    if drop:
        split = replace(split, sides=np.where(near.train, np.int8(-1), split.sides))
    return split, told, near.train


def placed_rows(
    keyed: KeyedTable,
    split: SplitResult,
    copies: NDArray[np.int32] | None = None,
    noted: dict[int, TemplateRow | None] | None = None,
) -> Iterator[tuple[Part, TemplateRow]]:
    """Read the rows that the split has kept, each with its part, as often as it is taken, in the order of the files.

    Those whose numbers are in ``noted`` are put down there.
    """
    often = (split.sides >= 0).astype(np.int32) if copies is None else copies
    for number, (side, times, row) in enumerate(zip(split.sides.tolist(), often.tolist(), keyed.rows(), strict=True)):
        if noted is not None and number in noted:
            noted[number] = row
        for _ in range(times):
            yield PARTS[side], row


def _by_source(
    read: Sequence[int],
    keyed: KeyedTable,
    split: SplitResult,
    copies: NDArray[np.int32],
    *,
    files: Sequence[RowFile],
    left_out: Mapping[tuple[int, Part], int],
) -> list[SourceRows] | None:
    """What became of each source: rows in it, and those that were encoded; None where there is none."""
    commits = {file.source: file.origin[1] for file in files if file.origin is not None}
    return [
        SourceRows(
            rows=rows,
            revision=commits.get(number),
            **{
                part: int(copies[(keyed.sources == number) & (split.sides == side)].sum())
                - left_out.get((number, part), 0)
                for side, part in enumerate(PARTS)
            },
        )
        for number, rows in enumerate(read)
    ] or None


def label_set(keyed: KeyedTable, split: SplitResult) -> tuple[str, ...] | None:
    """Choices that hold for every row: the spec's, else the labels of the train rows for templates that have labels.

    Raises
    ------
    StageError
        DatasetInvalid: a classification with one label, or with more than can be labels.
    """
    template = keyed.template
    if template.choice_source != "labels":
        return template.choices
    train = np.flatnonzero(split.sides == PARTS.index("train"))
    if template.choices is not None:
        train = train[np.isin(keyed.answers[train], [hash_of_answer(choice) for choice in template.choices])]
    _, first = np.unique(keyed.answers[train], return_index=True)
    column = next(f.column for f in template.fields if f.name == template.answer)
    if len(first) == 1:
        (label,) = keyed.answers_of([int(train[first[0]])])
        raise StageError(
            Reason.DATASET_INVALID,
            f"all {len(train)} train rows have the answer {label!r} in column {column!r}, so there is nothing to "
            "learn; give rows with at least two answers",
            tells_mend=True,
        )
    if template.choices is not None:
        return template.choices
    if len(first) > MAX_LABELS:
        raise StageError(
            Reason.DATASET_INVALID,
            f"column {column!r} has {len(first)} different values in the train rows, and template {template.name} is "
            f"for at most {MAX_LABELS} labels; use template instruction, qa or raw for open answers",
            tells_mend=True,
        )
    return tuple(sorted(keyed.answers_of(train[first].tolist())))


def _chunks(rows: Iterator[tuple[Part, TemplateRow]]) -> Iterator[list[tuple[Part, TemplateRow]]]:
    chunk: list[tuple[Part, TemplateRow]] = []
    size = 0
    for row in rows:
        chunk.append(row)
        size += row[1].record.size
        if len(chunk) >= _CHUNK_ROWS or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
