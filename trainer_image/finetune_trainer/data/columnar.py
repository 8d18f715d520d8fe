"""Reads Parquet and Arrow files with pyarrow, a few rows at a time.

Called by ``readers.py``, which loads it with the first such file: pyarrow takes a tenth of a second. Values become
what JSON would hold: text, numbers, booleans, lists and objects; dates and decimals are texts, a missing number is
none. What the ``datasets`` library notes about a column (the names of its classes) is used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import pyarrow as pa
from pyarrow import parquet, types

from finetune_api.reasons import Reason
from finetune_trainer.data.classes import named, usable
from finetune_trainer.data.source import BadRow, Row, Source
from finetune_trainer.errors import StageError

__all__ = ["own_classes", "read_columnar"]

_BATCH: Final = 256
_PAGE: Final = 2**20
_END: Final = b"\xff\xff\xff\xff\0\0\0\0"
_PANDAS_INDEX: Final = "__index_level_"
_OF_CHATS: Final = frozenset({"role", "from", "function", "parameters"})
"""Keys by which the entries of a list are turns of a conversation, or tools."""


def read_columnar(source: Source) -> Iterator[Row | BadRow]:
    """Yield the rows of a Parquet or Arrow file, numbered from 1.

    Raises
    ------
    StageError
        DatasetInvalid: it is damaged, or two of its columns have one name.
    """
    number = 0
    with _damage(source.name):
        for batch in _batches(source):
            _check_names(batch.schema.names, source.name)
            names = usable({**dict(source.classes), **_class_names(batch.schema.metadata)}, source.choices)
            columns = [c for c in batch.schema.names if not c.startswith(_PANDAS_INDEX)]
            size = batch.nbytes // max(1, batch.num_rows)
            for values in _values(batch.select(columns)):
                number += 1
                if isinstance(values, str):
                    yield BadRow(number, values)
                else:
                    yield Row(number, named(values, names), size)


def own_classes(source: Source) -> dict[str, list[str]]:
    """Return the names of the classes that a Parquet or Arrow file brings itself, by column.

    Raises
    ------
    StageError
        DatasetInvalid: it is damaged.
    """
    with _damage(source.name):
        first = next(_batches(source), None)
        return {} if first is None else _class_names(first.schema.metadata)


def _class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Return the names of a column's classes, by column, as the ``datasets`` library keeps them beside the numbers."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        found = {column: about["names"] for column, about in features.items() if about.get("_type") == "ClassLabel"}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}
    return {column: names for column, names in found.items() if isinstance(names, list)}


def _batches(source: Source) -> Iterator[pa.RecordBatch]:
    if source.format == "Parquet":
        # Pages are read as they are needed: a file may be one row group.
        with parquet.ParquetFile(source.path, pre_buffer=False, buffer_size=_PAGE) as file:
            yield from file.iter_batches(batch_size=_BATCH, use_threads=False)
        return
    with pa.memory_map(str(source.path)) as mapped:
        for batch in _arrow(mapped):
            for start in range(0, batch.num_rows, _BATCH):
                yield batch.slice(start, _BATCH)


def _arrow(mapped: pa.MemoryMappedFile) -> Iterator[pa.RecordBatch]:
    magic = mapped.read(6)
    mapped.seek(0)
    if magic == b"ARROW1":
        reader = pa.ipc.open_file(mapped)
        for place in range(reader.num_record_batches):
            yield reader.get_batch(place)
        return
    if mapped.size() > len(_END):
        mapped.seek(mapped.size() - len(_END))
        if mapped.read() != _END:
            # A stream that stops between two batches looks like one that is over.
            raise pa.ArrowInvalid("neither an Arrow file nor a stream with its end mark")
        mapped.seek(0)
    yield from pa.ipc.open_stream(mapped)


@contextmanager
def _damage(name: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise StageError(
            Reason.DATASET_INVALID,
            f"{name} can't be read: {' '.join(str(error).split())[:300]}; it is damaged, of another format or was cut "
            "off on its way, store it anew",
            tells_mend=True,
        ) from error


def _check_names(names: Sequence[str], file: str) -> None:
    twice = next((name for name in names if list(names).count(name) > 1), None)
    if twice is not None:
        raise StageError(
            Reason.DATASET_INVALID, f"{file} has two columns {twice!r}; rename or remove one of them", tells_mend=True
        )


def _values(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | str]:
    """Yield the values of each row, or why it can't be used."""
    names = batch.schema.names
    padded = {field.name for field in batch.schema if _is_padded(field.type)}
    columns = [_as_text(column) for column in batch.columns]
    try:
        lists = [column.to_pylist() for column in columns]
    except UnicodeDecodeError:
        lists = []
    for place in range(batch.num_rows):
        try:
            row = [cells[place] for cells in lists] if lists else [column[place].as_py() for column in columns]
            yield {name: _plain(value, padded=name in padded) for name, value in zip(names, row, strict=True)}
        except UnicodeDecodeError as error:
            yield f"text that is not UTF-8 ({error.reason})"


def _as_text(column: pa.Array) -> pa.Array:
    """Return dates as texts: what Python makes of them has no nanoseconds, and fails where there are some."""
    return column.cast(pa.string()) if types.is_temporal(column.type) and not types.is_duration(column.type) else column


def _is_padded(kind: pa.DataType) -> bool:
    """Whether a column holds conversations or tools, whose objects had other keys before they were stored.

    All objects of a column have the same keys here, so each has those of all others, with nothing in them: a call would
    be learned with the arguments of other tools.
    """
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if not is_list or not types.is_struct(kind.value_type):
        return False
    return any(field.name in _OF_CHATS for field in kind.value_type)


def _plain(value: Any, *, padded: bool = False) -> Any:
    """Return what JSON would hold; without the keys of objects that hold nothing where these are padding."""
    match value:
        case None | str() | bool() | int():
            plain: Any = value
        case float():
            plain = None if math.isnan(value) else value if math.isfinite(value) else str(value)
        case dict():
            some = {str(key): _plain(inner, padded=padded) for key, inner in value.items()}
            plain = {key: inner for key, inner in some.items() if inner is not None} if padded else some
        case [tuple(), *_]:  # a map comes as a list of pairs
            plain = {str(key): _plain(inner, padded=padded) for key, inner in value}
        case list():
            plain = [_plain(inner, padded=padded) for inner in value]
        case bytes():
            plain = _text_of(value)
        case _:
            plain = str(value)
    return plain


def _text_of(value: bytes) -> str | None:
    """Return text that was stored without saying so; an image or the like is no value of a row."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None
