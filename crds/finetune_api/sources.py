"""Where the rows of ``spec.dataset`` lie: URIs and their rule, files by part, several sources.

Split from :mod:`finetune_api.dataset` for size; the URI type and rule are those of the whole spec.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from finetune_api.base import DecimalString, Digest, Rule, SpecModel
from finetune_api.uris import DOT_SEGMENT, FILES_URI, HUB_ROWS, ROWS_URI

__all__ = ["ROWS", "Column", "DatasetFiles", "DatasetSource", "Uri", "own_parts", "uri_rule"]

Uri = Annotated[str, Field(min_length=6, max_length=1024)]
Column = Annotated[str, Field(min_length=1, max_length=128)]
ROWS: Final = "s3://bucket/rows.jsonl or hf://datasets/org/name#split"


def uri_rule(field: str, pattern: str, path: str, *, example: str, optional: bool = False) -> Rule:
    """URIs of a cluster run: a scheme that a pod can read, nothing that could make a prefix check lie.

    Parameters
    ----------
    field
        Name of the attribute, which is also its name on the wire.
    pattern
        One that Python, Go and Rust read alike (:mod:`finetune_api.uris`).
    path
        The field below spec, for the message.
    example
        A URI that works.
    optional
        Whether the field may be absent.
    """
    cel = f"self.{field}.matches({_cel_text(pattern)}) && !self.{field}.matches({_cel_text(DOT_SEGMENT)})"
    whole, dots = re.compile(pattern), re.compile(DOT_SEGMENT)

    def check(obj: object) -> bool:
        value: str | None = getattr(obj, field)
        return value is None or bool(whole.fullmatch(value) and not dots.search(value))

    return Rule(
        cel=f"!has(self.{field}) || ({cel})" if optional else cel,
        message=f"{path} must be a URI such as {example}, without '..', '?', {'another ' * ('#' in example)}'#', '\\' "
        "or spaces",
        check=check,
        field=field,
        cluster_only=True,
    )


def own_parts(dataset: str) -> str:
    """CEL: a dataset of the hub may bring its parts, since no split of it is named; ``dataset`` is where it stands."""
    whole = "{0}.startsWith('" + HUB_ROWS + "') && !{0}.contains('#')"
    return (
        f"((has({dataset}.uri) && {whole.format(f'{dataset}.uri')}) || "
        f"(has({dataset}.sources) && {dataset}.sources.exists(s, {whole.format('s.uri')})))"
    )


def _cel_text(pattern: str) -> str:
    return "'" + pattern.replace("\\", "\\\\") + "'"


class DatasetFiles(SpecModel):
    """A file, or a folder of files, for each part, for data that is split already."""

    rules: ClassVar[tuple[Rule, ...]] = (
        uri_rule("train", FILES_URI, "dataset.files.train", example=ROWS),
        uri_rule("validation", FILES_URI, "dataset.files.validation", example=ROWS, optional=True),
        uri_rule("test", FILES_URI, "dataset.files.test", example=ROWS, optional=True),
    )

    train: Uri = Field(description="Rows to learn from. Of hf://datasets/org/name the split train, or #split.")
    validation: Uri | None = Field(None, description="Rows to watch during training. Absent: cut from train.")
    test: Uri | None = Field(None, description="Sealed rows for the accuracy. Absent: cut from train.")


class DatasetSource(SpecModel):
    """One of several datasets that are mixed."""

    rules: ClassVar[tuple[Rule, ...]] = (
        uri_rule("uri", ROWS_URI, "dataset.sources[].uri", example=ROWS),
        Rule(
            cel="self.uri.startsWith('https://') ? has(self.digest) : !has(self.digest) || "
            "!(self.uri.endsWith('/') || self.uri.startsWith('hf://'))",
            message="dataset.sources[].digest is needed with https://, and belongs to one file alone",
            check=lambda s: (
                s.digest is not None
                if s.uri.startswith("https://")
                else s.digest is None or not (s.uri.endswith("/") or s.uri.startswith("hf://"))
            ),
            field="digest",
        ),
        Rule(
            cel="!has(self.weight) || (double(self.weight) > 0.0 && double(self.weight) <= 100.0)",
            message='dataset.sources[].weight must be above 0 and at most 100, as text such as "0.5"',
            check=lambda s: s.weight is None or 0 < float(s.weight) <= 100,
            field="weight",
        ),
        Rule(
            cel="!has(self.columns) || self.columns.all(k, size(k) >= 1 && size(k) <= 128)",
            message="dataset.sources[].columns has an empty key or one above 128 characters; a key is the "
            "column's new name",
            check=lambda s: s.columns is None or all(1 <= len(key) <= 128 for key in s.columns),
            field="columns",
        ),
    )

    uri: Uri = Field(description="As dataset.uri.")
    digest: Digest | None = Field(None, description="As dataset.digest.")
    format: Literal["Auto", "Jsonl", "Json", "Csv", "Tsv", "Parquet", "Arrow"] | None = Field(
        None, description="Absent: dataset.format."
    )
    columns: dict[str, Column] | None = Field(None, max_length=16, description="New name of a column: its own name.")
    weight: DecimalString | None = Field(
        None,
        description="How often its train rows are taken: 0.5 is a seeded half of them, 2 each twice. Absent: 1.",
    )
