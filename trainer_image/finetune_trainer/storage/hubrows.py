"""Rows from a dataset of a Hugging Face hub: its commit, its card, and the files of the splits that are wanted.

Called by ``rows.py`` for each URI of the hub; ``hublayout.py`` has the rules by which files are splits. A branch is
resolved once for a job, so that two URIs of one dataset can't be of two commits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from finetune_api.reasons import Reason
from finetune_api.uris import HUB_ROWS, HubRows
from finetune_trainer.errors import StageError
from finetune_trainer.process.console import Progress
from finetune_trainer.storage.access import Access
from finetune_trainer.storage.hub import HubRepo, Named, download_files, resolve_hub_repo
from finetune_trainer.storage.hubclasses import Classes, classes_of
from finetune_trainer.storage.hublayout import LayoutError, card_of, choose_config, part_of_split, splits_of
from finetune_trainer.storage.rowfiles import PARTS_GIVEN, GivenPart
from finetune_trainer.storage.store import checked_key

__all__ = ["HubDatasets", "HubPart", "HubSplits"]

CARD: Final = "README.md"
_MOST_OF_CARD: Final = 4 * 2**20
_MOST_FILES: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class HubPart:
    """A split that is read: its name on the hub, the part that its rows are for (None: they are cut), its files."""

    split: str
    part: GivenPart | None
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSplits:
    """What a URI of the hub stands for.

    Attributes
    ----------
    place
        What the URI says.
    repo
        At its commit.
    parts
        The splits to read.
    left_out
        Names of the splits that are no part of their own, where none was named.
    classes
        Names of its columns' classes, as its card has them.
    """

    place: HubRows
    repo: HubRepo
    named: Named
    parts: tuple[HubPart, ...]
    left_out: tuple[str, ...]
    classes: Classes = ()

    @property
    def given(self) -> frozenset[GivenPart]:
        """The parts that it brings."""
        return frozenset(part.part for part in self.parts if part.part is not None)

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(self.repo.sizes[name] for part in self.parts for name in part.files)


@dataclass(kw_only=True)
class HubDatasets:
    """The datasets of a hub that one job reads, each asked for once.

    Attributes
    ----------
    scratch
        Folder for the cards.
    """

    access: Access
    scratch: Path
    _repos: dict[tuple[str, str | None], tuple[HubRepo, dict[str, Any]]] = field(default_factory=dict)

    def look(self, place: HubRows, *, field: str, part: GivenPart | None, declared: str) -> HubSplits:
        """Find out which files a URI stands for.

        Parameters
        ----------
        field
            That holds the URI, for messages.
        part
            The part that the field is for; None where the dataset may bring its own.
        declared
            ``format`` of the spec.

        Raises
        ------
        StageError
            DatasetNotFound, AccessDenied, StorageUnavailable; DatasetInvalid where its files can't be told apart.
        """
        named = Named(
            kind="dataset",
            uri=field,
            revision=field,
            role="dataset",
            missing=Reason.DATASET_NOT_FOUND,
            prefix=HUB_ROWS,
        )
        try:
            repo, card = self._repo(place, named)
            names = [name for name in repo.sizes if _is_plain(name)]
            config = choose_config(card, names, place.config, place.revision)
            splits = splits_of(config, names, declared, f"{repo.repo_id.rpartition('/')[2]}.py")
            parts = _parts(splits, place, part)
        except LayoutError as error:
            raise StageError(Reason.DATASET_INVALID, f"{field}: {place}: {error}", tells_mend=True) from None
        count = sum(len(one.files) for one in parts)
        if count > _MOST_FILES:
            raise StageError(
                Reason.DATASET_INVALID,
                f"{field}: {place} has {count} files, and at most {_MOST_FILES} are read; name a smaller configuration "
                "or split",
                tells_mend=True,
            )
        read = {one.split for one in parts}
        left_out = tuple(split for split in splits if split not in read) if place.split is None and not part else ()
        classes = classes_of(card, config.name)
        return HubSplits(place=place, repo=repo, named=named, parts=parts, left_out=left_out, classes=classes)

    def fetch(self, splits: HubSplits, folder: Path, progress: Progress) -> None:
        """Download the files of the splits, each under its own name."""
        names = [name for part in splits.parts for name in part.files]
        token = self.access.hub_token("dataset")
        download_files(splits.repo, names, folder, token=token, progress=progress, named=splits.named)

    def _repo(self, place: HubRows, named: Named) -> tuple[HubRepo, dict[str, Any]]:
        asked = (place.repo, place.revision)
        if asked not in self._repos:
            settings = self.access.settings_for("dataset", HUB_ROWS)
            repo = resolve_hub_repo(
                place.repo,
                revision=place.revision,
                token=self.access.hub_token("dataset"),
                endpoint=settings.endpoint if settings else None,
                ca_bundle=self.access.ca_bundle("dataset") if settings else None,
                named=named,
            )
            self._repos[asked] = repo, self._card(repo, named)
        return self._repos[asked]

    def _card(self, repo: HubRepo, named: Named) -> dict[str, Any]:
        if CARD not in repo.sizes:
            return {}
        if repo.sizes[CARD] > _MOST_OF_CARD:
            raise LayoutError(f"its {CARD} has {repo.sizes[CARD]} bytes, which is no card; shorten it")
        folder = self.scratch / f"card-{len(self._repos)}"
        download_files(repo, [CARD], folder, token=self.access.hub_token("dataset"), named=named)
        return card_of((folder / CARD).read_text(encoding="utf-8", errors="replace"))


def _is_plain(name: str) -> bool:
    """Whether a name can become a file on a disk, below the folder that it is fetched into."""
    try:
        checked_key(name)
    except StageError:
        return False
    return re.search(r"[\x00-\x1f\x7f\\]", name) is None and all(len(p.encode()) <= 200 for p in name.split("/"))


def _parts(splits: dict[str, list[str]], place: HubRows, part: GivenPart | None) -> tuple[HubPart, ...]:
    """Choose the splits to read: the named one, that of the field's part, or all that are parts of their own."""
    listed = ", ".join(splits)
    if place.split is not None:
        if place.split not in splits:
            raise LayoutError(f"it has no such split, but {listed}; correct the name behind '#'")
        return (HubPart(split=place.split, part=part, files=tuple(splits[place.split])),)
    by_part: dict[GivenPart, list[str]] = {one: [] for one in PARTS_GIVEN}
    for split in splits:
        if (found := part_of_split(split)) is not None:
            by_part[found].append(split)
    wanted: Sequence[GivenPart] = [part] if part else ["train", *(p for p in PARTS_GIVEN[1:] if by_part[p])]
    for one in wanted:
        if len(by_part[one]) != 1:
            what = f"several splits for {one}" if by_part[one] else f"no split for {one}"
            name = (by_part[one] or list(splits))[0]
            raise LayoutError(f"it has {what} (its splits: {listed}); name one behind the URI, such as #{name}")
    only = part is None and len(wanted) == 1
    return tuple(
        HubPart(split=by_part[one][0], part=None if only else one, files=tuple(splits[by_part[one][0]]))
        for one in wanted
    )
