"""Files of rows by their names: what an ending says of the format, and which files of a folder are rows; pure.

Below ``rows.py``, which fetches them. A folder is what a Spark job or a hub leaves, so names that begin with ``_`` or
``.`` (``_SUCCESS``, ``_metadata``, ``.part-0.crc``) are no rows, as those tools read it too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Literal, get_args

from finetune_api.dataset import Dataset
from finetune_api.digest import digest_of
from finetune_api.reasons import Reason
from finetune_api.uris import hub_rows
from finetune_trainer.errors import StageError
from finetune_trainer.storage.hubclasses import Classes
from finetune_trainer.storage.store import StoredFile, sha256_file

__all__ = [
    "PARTS_GIVEN",
    "Format",
    "GivenPart",
    "RowFile",
    "check_unchanged",
    "content_digests",
    "format_of_name",
    "given_files",
    "missing_shard",
    "revision_of",
    "select_row_files",
    "stamp_of",
]

Format = Literal["Jsonl", "Json", "Csv", "Tsv", "Parquet", "Arrow"]
GivenPart = Literal["train", "validation", "test"]
PARTS_GIVEN: Final[tuple[GivenPart, ...]] = get_args(GivenPart)

_ENDINGS: Final[Mapping[str, Format]] = {
    ".jsonl": "Jsonl",
    ".ndjson": "Jsonl",
    ".json": "Json",
    ".csv": "Csv",
    ".tsv": "Tsv",
    ".parquet": "Parquet",
    ".arrow": "Arrow",
    ".feather": "Arrow",
}
_PACKED: Final = frozenset({".gz", ".zst", ".zstd"})
_SHARD: Final = re.compile(
    r"(?P<before>(?:.*/)?[^/]*)-(?P<number>\d{5,})-of-(?P<count>\d{5,})(?:-[0-9a-f]+)?(?P<ending>(?:\.[^/]*)?)"
)
"""Names of shards, as ``datasets`` writes them; a digest may stand behind the numbers."""
_MOST_FILES: Final = 10_000
_SHOWN: Final = 3


Stamp = tuple[int, int, int]
"""File number, size and time of the last change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFile:
    """A file of rows on the local disk.

    Attributes
    ----------
    path
        Where it lies; it may be read-only.
    name
        What the user calls it: the end of its URI, or its path below the folder that the URI names.
    part
        The part that it was given for; None where its rows are cut.
    folder
        URI of the folder that was named, where it is one of its files; else empty.
    scratch
        Where something may be written beside it; the file's own folder if None.
    stamp
        Of a file that others may write, what it was when it was found.
    source
        Number of the entry of ``dataset.sources`` that it belongs to, from 0.
    origin
        (URI of the spec, commit) of a dataset of the hub that it is a file of.
    classes
        Names of its columns' classes, as that dataset's card has them.
    """

    path: Path
    name: str
    part: GivenPart | None = None
    folder: str = ""
    scratch: Path | None = None
    stamp: Stamp | None = None
    source: int | None = None
    origin: tuple[str, str] | None = None
    classes: Classes = ()


def revision_of(files: Sequence[RowFile]) -> str | None:
    """Return the commit of the hub's dataset that the files are of, or a digest over those of several; None for others.

    Where there are several, the digest is one over what was read, so another commit of any of them shows.
    """
    origins = sorted({file.origin for file in files if file.origin is not None})
    commits = {(str(place.repo) if (place := hub_rows(uri)) else uri, commit) for uri, commit in origins}
    if len(commits) == 1:
        return origins[0][1]
    return digest_of(origins) if origins else None


def content_digests(files: Sequence[RowFile], dataset: Dataset) -> dict[str, str]:
    """Return a digest of what was read for each field of the spec that names rows, such as ``dataset.files.test``.

    It is the file's own, or of a folder one over those of its files in the order of reading; names don't count. What
    comes from a hub is left out, since its commit names it.
    """
    found: dict[str, list[str]] = {}
    for file in files:
        if file.origin is None:
            found.setdefault(_field_of(file, dataset), []).append(sha256_file(file.path))
    return {field: digests[0] if len(digests) == 1 else digest_of(digests) for field, digests in found.items()}


def _field_of(file: RowFile, dataset: Dataset) -> str:
    if dataset.sources is not None:
        return f"dataset.sources[{file.source}].uri"
    return f"dataset.files.{file.part}" if dataset.files is not None else "dataset.uri"


def given_files(files: Mapping[str, Path] | Sequence[RowFile], dataset: Dataset) -> Sequence[RowFile]:
    """Take plain paths, by ``all`` or by part, for the files that the spec names."""
    if not isinstance(files, Mapping):
        return files
    uris: dict[GivenPart | None, str | None] = {None: dataset.uri}
    uris |= {part: getattr(dataset.files, part, None) for part in PARTS_GIVEN}
    found = ((part, uri, files.get(part or "all")) for part, uri in uris.items())
    return [
        RowFile(path=path, name=(uri or path.name).rpartition("/")[2], part=part)
        for part, uri, path in found
        if path is not None
    ]


def stamp_of(path: Path) -> Stamp:
    """What tells a file from what it is when somebody has written it anew."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def check_unchanged(files: Sequence[RowFile]) -> None:
    """Make sure that files which were read where they lie are what they were: the passes must have seen the same rows.

    Raises
    ------
    StageError
        VerificationFailed, naming the first that is not.
    """
    for file in files:
        if file.stamp is not None and (not file.path.exists() or stamp_of(file.path) != file.stamp):
            raise StageError(
                Reason.VERIFICATION_FAILED,
                f"dataset: {file.name} changed while it was read; start the job anew when nobody writes there",
                tells_mend=True,
            )


def format_of_name(name: str) -> Format | None:
    """What the ending of a name says, that of a packed file apart; None where it says nothing."""
    endings = [suffix.lower() for suffix in PurePosixPath(name).suffixes]
    if endings and endings[-1] in _PACKED:
        endings.pop()
    return _ENDINGS.get(endings[-1]) if endings else None


def select_row_files(listed: Sequence[StoredFile], *, field: str, uri: str, declared: str) -> list[StoredFile]:
    """Pick the files of rows of a folder, in the order of their keys.

    Parameters
    ----------
    listed
        All files below the folder.
    field, uri
        The field that names the folder, and what it says, for messages.
    declared
        ``format`` of the spec.

    Raises
    ------
    StageError
        DatasetNotFound: there is none; DatasetInvalid: files of several formats, or of none that is known.
    """
    files = sorted((file for file in listed if not _is_hidden(file.key)), key=lambda file: file.key)
    if not files:
        hidden = f" but {len(listed)} whose names begin with '_' or '.', which are not read" if listed else ""
        raise StageError(Reason.DATASET_NOT_FOUND, f"{field}: there are no files below {uri}{hidden}")
    if len(files) > _MOST_FILES:
        raise StageError(
            Reason.DATASET_INVALID,
            f"{field}: there are {len(files)} files below {uri}, and at most {_MOST_FILES} are read; store the rows in "
            "fewer files, or name a folder further down",
            tells_mend=True,
        )
    _check_formats([file.key for file in files], field=field, uri=uri, declared=declared)
    if missing := missing_shard([file.key for file in files], [file.key for file in files]):
        raise StageError(
            Reason.DATASET_INVALID,
            f"{field}: below {uri} the shard {missing[-160:]} is missing, which the names of the others count; store "
            "it there, or rename the files if they are all there are",
            tells_mend=True,
        )
    filled = [file for file in files if file.size]
    if not filled:
        raise StageError(Reason.DATASET_INVALID, f"{field}: all {len(files)} files below {uri} are empty")
    return filled


def missing_shard(names: Sequence[str], there: Sequence[str]) -> str:
    """Return the first shard that the names of others count and that does not lie there; empty where none is missing.

    Shards are counted from 0, as ``datasets`` does, or from 1.

    Parameters
    ----------
    names
        The files that are to be read.
    there
        All files: shards that were left out on purpose lie among them.
    """
    found: dict[tuple[str, str, str], set[int]] = {}
    for match in filter(None, map(_SHARD.fullmatch, there)):
        found.setdefault((match["before"], match["count"], match["ending"]), set()).add(int(match["number"]))
    asked = {(m["before"], m["count"], m["ending"]) for m in filter(None, map(_SHARD.fullmatch, names))}
    for before, count, ending in sorted(asked):
        numbers, total = found.get((before, count, ending), set()), int(count)
        first = 1 if total in numbers and 0 not in numbers else 0
        if len(numbers) >= total:
            continue
        number = next(n for n in range(first, first + total) if n not in numbers)
        return f"{before}-{number:0{len(count)}}-of-{count}{ending}"
    return ""


def _is_hidden(key: str) -> bool:
    return any(segment.startswith(("_", ".")) for segment in key.split("/"))


def _check_formats(names: Sequence[str], *, field: str, uri: str, declared: str) -> None:
    kinds = {name: format_of_name(name) for name in names}
    untold = [name for name, kind in kinds.items() if kind is None]
    if untold and declared == "Auto":
        raise StageError(
            Reason.DATASET_INVALID,
            f"{field}: below {uri} lies {_named(untold)}, whose ending tells no format; move it, begin its name with "
            "'_', or set the format",
            tells_mend=True,
        )
    counts = Counter(kind or declared for kind in kinds.values())
    if declared != "Auto":
        counts.setdefault(declared, 0)
    if len(counts) > 1:
        rarest = min((kind for kind in counts if counts[kind]), key=lambda kind: (counts[kind], kind))
        odd = [name for name, kind in kinds.items() if (kind or declared) == rarest]
        found = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items(), key=lambda item: -item[1]))
        raise StageError(
            Reason.DATASET_INVALID,
            f"{field}: the files below {uri} are of several formats ({found}; {rarest}: {_named(odd)}); leave those of "
            "one format there, or name a folder further down",
            tells_mend=True,
        )


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(name[-80:] for name in names[:_SHOWN]) + more
