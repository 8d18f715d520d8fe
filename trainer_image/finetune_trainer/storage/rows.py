"""Brings the rows onto the local disk: a file, a folder of files, a file from the web, or a dataset of the hub.

Called by ``job/dataset.py`` and the preview; knows ``spec.dataset``, while ``access.py`` knows credentials and
endpoints, and ``rowfiles.py`` which files of a folder are rows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api.job import Dataset
from finetune_api.reasons import Reason
from finetune_api.uris import HUB_ROWS, HubRows, hub_rows
from finetune_trainer.errors import StageError
from finetune_trainer.process.console import Progress
from finetune_trainer.storage.access import Access, parse_role_uri
from finetune_trainer.storage.fetch import MAX_NAME_BYTES, literal_key
from finetune_trainer.storage.files import bytes_progress
from finetune_trainer.storage.mounted import MountedStore
from finetune_trainer.storage.rowfiles import PARTS_GIVEN, GivenPart, RowFile, select_row_files, stamp_of
from finetune_trainer.storage.store import OnBytes, Store, StoredFile, in_parallel, sha256_file

if TYPE_CHECKING:
    from finetune_trainer.storage.hubrows import HubDatasets, HubSplits

__all__ = ["fetch_dataset"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """One URI of the spec: the field that holds it, and what the spec says of it."""

    field: str
    uri: str
    part: GivenPart | None
    declared: str
    digest: str | None = None
    source: int | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """What lies at a URI: bytes as far as they are known, and the way to fetch it into a folder."""

    size: int
    fetch: Callable[[Path, OnBytes], list[RowFile]]
    given: frozenset[GivenPart] = frozenset()
    """Parts that a dataset of the hub brings."""


class _Hub:
    """The hub's datasets of this job; its client is loaded with the first."""

    def __init__(self, access: Access, folder: Path) -> None:
        self._access, self._folder = access, folder
        self._datasets: HubDatasets | None = None

    def look(self, one: _Wanted, place: HubRows) -> _Found:
        """Find out what a URI of the hub stands for."""
        from finetune_trainer.storage.hubrows import HubDatasets  # noqa: PLC0415 - few jobs need it

        if self._datasets is None:
            self._datasets = HubDatasets(access=self._access, scratch=self._folder)
        splits = self._datasets.look(place, field=one.field, part=one.part, declared=one.declared)
        _log.info(
            "%s is commit %s; read are the splits %s%s",
            one.uri,
            splits.repo.commit,
            ", ".join(part.split for part in splits.parts),
            f", left out {', '.join(splits.left_out)}" if splits.left_out else "",
        )
        return _Found(splits.size, partial(_fetch_from_hub, self._datasets, splits, one), splits.given)


def fetch_dataset(dataset: Dataset, *, access: Access, folder: Path, progress: Progress) -> list[RowFile]:
    """Download the rows; everything is looked for before the first of it is fetched.

    Returns
    -------
    list[RowFile]
        In the order of reading. A file keeps the ending that it has in its URI, since that tells the format.

    Raises
    ------
    StageError
        DatasetNotFound, DatasetInvalid, AccessDenied, StorageUnavailable, InvalidSpec, and VerificationFailed where a
        file has another digest than the spec says.
    """
    wanted = _wanted(dataset)
    for one in wanted:
        if parse_role_uri("dataset", one.uri, one.field).scheme == "hf" and not one.uri.startswith(HUB_ROWS):
            raise StageError(
                Reason.INVALID_SPEC,
                f"{one.field}: {one.uri} names a model; a dataset of the hub is hf://datasets/org/name",
                tells_mend=True,
            )
    folder.mkdir(parents=True, exist_ok=True)
    hub = _Hub(access, folder)
    found = [_look(access, hub, one) for one in wanted]
    _check_own_parts(dataset, wanted, found)
    on_bytes = bytes_progress(progress, sum(one.size for one in found))
    files: list[RowFile] = []
    for number, (one, there) in enumerate(zip(wanted, found, strict=True)):
        # A folder for each, since two may have files of one name.
        place = folder / f"{number:02}"
        place.mkdir(parents=True, exist_ok=True)
        fetched = [replace(file, source=one.source) for file in there.fetch(place, on_bytes)]
        _check_digest(one, fetched)
        files += fetched
    return files


def _wanted(dataset: Dataset) -> list[_Wanted]:
    declared = dataset.format
    if dataset.uri is not None:
        return [_Wanted(field="dataset.uri", uri=dataset.uri, part=None, declared=declared, digest=dataset.digest)]
    if dataset.sources is not None:
        return [
            _Wanted(
                field=f"dataset.sources[{number}].uri",
                uri=one.uri,
                part=None,
                declared=one.format or declared,
                digest=one.digest,
                source=number,
            )
            for number, one in enumerate(dataset.sources)
        ]
    if dataset.files is None:
        raise StageError(Reason.INVALID_SPEC, "dataset needs exactly one of uri, files and sources")
    given = [(part, getattr(dataset.files, part)) for part in PARTS_GIVEN]
    return [
        # Rows of files.train are cut where another part is not given.
        _Wanted(field=f"dataset.files.{part}", uri=uri, part=part, declared=declared)
        for part, uri in given
        if uri is not None
    ]


def _check_own_parts(dataset: Dataset, wanted: Sequence[_Wanted], found: Sequence[_Found]) -> None:
    """Make sure that the parts which datasets of the hub bring are those of all rows.

    Raises
    ------
    StageError
        InvalidSpec: there is a column for it too, or another source brings other ones.
    """
    if dataset.files is not None:
        return
    for one, there in zip(wanted, found, strict=True):
        if there.given and dataset.split.by is not None:
            raise StageError(
                Reason.INVALID_SPEC,
                f"dataset.split.by: {one.uri} ({one.field}) has {_told(there.given)} of its own; take the field out, "
                f"or name the split whose column says the part, such as {one.uri}#train",
                tells_mend=True,
            )
        if there.given != found[0].given:
            odd, other = (one, wanted[0]) if there.given else (wanted[0], one)
            has, lacks = there.given or found[0].given, found[0].given if there.given else there.given
            raise StageError(
                Reason.INVALID_SPEC,
                f"{odd.field}: {odd.uri} has {_told(has)} of its own and {other.uri} ({other.field}) "
                f"{_told(lacks) if lacks else 'has not'}, so the parts would be of other sources; name the split to "
                f"cut, such as {odd.uri}#train",
                tells_mend=True,
            )


def _told(given: Collection[GivenPart]) -> str:
    return " and ".join(part for part in PARTS_GIVEN if part in given) + " rows"


def _look(access: Access, hub: _Hub, one: _Wanted) -> _Found:
    """Find out what lies at a URI."""
    if (place := hub_rows(one.uri)) is not None:
        return hub.look(one, place)
    if parse_role_uri("dataset", one.uri, one.field).scheme == "https":
        return _Found(0, partial(_fetch_from_web, access, one))
    if one.uri.endswith("/"):
        store = access.open("dataset", one.uri, one.field)
        files = select_row_files(store.list(), field=one.field, uri=one.uri, declared=one.declared)
        return _Found(sum(file.size for file in files), partial(_fetch_folder, store, files, one))
    store, key = access.open_file("dataset", one.uri, one.field)
    size = store.size(key)
    if size is None:
        raise _no_such_file(access, one)
    return _Found(size, partial(_fetch_file, store, key, one))


def _fetch_file(store: Store, key: str, one: _Wanted, folder: Path, on_bytes: OnBytes) -> list[RowFile]:
    if isinstance(store, MountedStore):
        return [_where_it_lies(store, key, RowFile(path=folder, name=key, part=one.part), folder)]
    path = folder / _local_name(key)
    store.get_file(key, path, on_bytes)
    return [RowFile(path=path, name=key, part=one.part)]


def _fetch_folder(
    store: Store, files: Sequence[StoredFile], one: _Wanted, folder: Path, on_bytes: OnBytes
) -> list[RowFile]:
    rows = []
    if isinstance(store, MountedStore):
        for number, file in enumerate(files):
            scratch = folder / f"{number:05}"
            scratch.mkdir()
            row = RowFile(path=folder, name=file.key, part=one.part, folder=one.uri)
            rows.append(_where_it_lies(store, file.key, row, scratch))
        return rows
    for number, file in enumerate(files):
        path = folder / f"{number:05}" / _local_name(file.key.rpartition("/")[2])
        path.parent.mkdir()
        rows.append(RowFile(path=path, name=file.key, part=one.part, folder=one.uri))
    in_parallel(partial(store.get_file, file.key, row.path, on_bytes) for file, row in zip(files, rows, strict=True))
    for file, row in zip(files, rows, strict=True):
        if row.path.stat().st_size != file.size:
            raise StageError(
                Reason.VERIFICATION_FAILED,
                f"{one.field}: {one.uri}{file.key} had {file.size} bytes when the folder was listed, and "
                f"{row.path.stat().st_size} when it was read; start the job anew when nobody writes there",
                tells_mend=True,
            )
    return rows


def _where_it_lies(store: MountedStore, key: str, row: RowFile, scratch: Path) -> RowFile:
    """A file of a volume is read in place; it must not change while it is."""
    path = store.path_of(key)
    return replace(row, path=path, scratch=scratch, stamp=stamp_of(path))


def _fetch_from_hub(
    datasets: HubDatasets, splits: HubSplits, one: _Wanted, folder: Path, on_bytes: OnBytes
) -> list[RowFile]:
    before = 0

    def progress(done: int, _total: int) -> None:
        nonlocal before
        on_bytes(done - before)
        before = done

    datasets.fetch(splits, folder, progress)
    return [
        RowFile(
            path=folder / name,
            name=name,
            part=part.part,
            folder=str(replace(splits.place, split=part.split)),
            origin=(one.uri, splits.repo.commit),
            classes=splits.classes,
        )
        for part in splits.parts
        for name in part.files
    ]


def _fetch_from_web(access: Access, one: _Wanted, folder: Path, on_bytes: OnBytes) -> list[RowFile]:
    from finetune_trainer.storage.web import fetch_web_file  # noqa: PLC0415 - its client, which few jobs need

    own = access.settings_for("dataset", one.uri) is not None
    name = one.uri.rpartition("/")[2]
    path = folder / _local_name(name)
    fetch_web_file(
        one.uri, path, field=one.field, ca_bundle=access.ca_bundle("dataset") if own else None, on_bytes=on_bytes
    )
    return [RowFile(path=path, name=name, part=one.part)]


def _check_digest(one: _Wanted, files: Sequence[RowFile]) -> None:
    if one.digest is None:
        return
    digest = sha256_file(files[0].path)
    if digest != one.digest:
        field = one.field.removesuffix("uri") + "digest"
        raise StageError(
            Reason.VERIFICATION_FAILED,
            f"{one.field}: {one.uri} has the digest {digest}, and {field} says {one.digest}; if the file was changed "
            "on purpose, write its digest there",
            tells_mend=True,
        )


def _local_name(name: str) -> str:
    """Return the name that a file of rows gets here: its own, shortened from the left where a disk has no room."""
    data = name.encode()
    return name if len(data) <= MAX_NAME_BYTES else data[-MAX_NAME_BYTES:].decode(errors="ignore")


def _no_such_file(access: Access, one: _Wanted) -> StageError:
    """Explain a file of rows that is not there; what lies around it tells the common mistakes."""
    hint = literal_key(one.uri)
    try:
        below = access.open("dataset", one.uri + "/").list(limit=1)
    except StageError:
        below = []  # listing may be refused where reading is not
    if below:
        hint = (
            f"; it is a folder: end it with '/' to read all files in it, or name one file in it, such as "
            f"{one.uri}/{below[0].key}"
        )
    return StageError(Reason.DATASET_NOT_FOUND, f"{one.field}: there is no file at {one.uri}{hint}")
