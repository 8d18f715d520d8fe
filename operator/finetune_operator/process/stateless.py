"""Storages by which Kopf remembers nothing.

Before every event handler Kopf copies the whole object, twice or more, to compare it with what it last handled, and
throws the copies away where no handler asks for a difference. That took two fifths of the operator's CPU. Ours never
ask (``handlers.py``), so there is nothing to compare, and nothing that could be written to anybody's annotations.
"""

from __future__ import annotations

from typing import Any

import kopf
from typing_extensions import override

__all__ = ["NoDifferences", "NoProgress"]


class NoDifferences(kopf.DiffBaseStorage):
    """Every object looks the same at any time."""

    @override
    def build(self, **_: Any) -> Any:
        """Return the same nothing for every object, without a look at it."""
        return {}

    @override
    def fetch(self, **_: Any) -> None:
        """Remember nothing."""

    @override
    def store(self, **_: Any) -> None:
        """Write nothing."""


class NoProgress(kopf.ProgressStorage):
    """No handler has been run before."""

    @override
    def fetch(self, **_: Any) -> None:
        """Remember nothing."""

    @override
    def store(self, **_: Any) -> None:
        """Write nothing."""

    @override
    def purge(self, **_: Any) -> None:
        """Have nothing to remove."""

    @override
    def touch(self, **_: Any) -> None:
        """Write nothing."""

    @override
    def clear(self, *, essence: Any) -> Any:
        """Return what it was given: there is nothing of ours in it."""
        return essence
