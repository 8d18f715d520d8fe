"""What a comparison of two results finds, and a result as it is read for one: its manifest and the files that it lists.

A file counts only while it has the digest that its manifest tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from finetune_api.digest import sha256_digest
from finetune_trainer.output.manifest import Manifest
from finetune_trainer.storage.files import FileEntry
from finetune_trainer.storage.store import Store

__all__ = ["Finding", "Result", "State", "different", "not_compared", "same"]

State = Literal["Same", "Different", "NotCompared"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What came out of comparing one subject.

    Attributes
    ----------
    subject
        A field of the spec, or a word such as ``split``.
    text
        A sentence without its full stop, for people.
    arithmetic
        Whether it is computed in floats, so that another machine may give other last digits.
    largest
        The largest difference of the numbers compared; None where none differs, or where they aren't numbers.
    """

    subject: str
    state: State
    text: str
    arithmetic: bool = False
    largest: float | None = None


def same(subject: str, text: str, *, arithmetic: bool = False) -> Finding:
    """Find nothing."""
    return Finding(subject=subject, state="Same", text=text, arithmetic=arithmetic)


def different(subject: str, text: str, *, arithmetic: bool = False, largest: float | None = None) -> Finding:
    """Find a difference."""
    return Finding(subject=subject, state="Different", text=text, arithmetic=arithmetic, largest=largest)


def not_compared(subject: str, text: str, *, arithmetic: bool = False) -> Finding:
    """Say why something can't be told."""
    return Finding(subject=subject, state="NotCompared", text=text, arithmetic=arithmetic)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A complete result."""

    manifest: Manifest
    store: Store

    def entries(self, prefix: str) -> dict[str, FileEntry]:
        """Return what the manifest lists at or below a path, by path."""
        return {entry.path: entry for entry in self.manifest.files if entry.path.startswith(prefix)}

    def content(self, path: str) -> bytes | None:
        """Read a file; None where it isn't listed, is gone, or isn't what is listed."""
        entry = self.entries(path).get(path)
        if entry is None or self.store.size(path) != entry.bytes:
            return None
        data = self.store.get_bytes(path)
        return data if sha256_digest(data) == entry.sha256 else None
