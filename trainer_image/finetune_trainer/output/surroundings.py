"""By what two results were computed: where they differ in it, losses may differ in their last digits. Pure.

Split and rows don't depend on any of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from finetune_trainer.output.manifest import Manifest

__all__ = ["Change", "changes"]

_MACHINE: Final = {
    "device": "device",
    "capability": "instruction set or GPU",
    "threads": "threads",
    "processor": "processor",
    "architecture": "architecture",
}
"""Of the machine what is compared, with the words for it. The version of torch is among the versions."""
_OPTIONAL: Final = "processor"
"""Not every system names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Something of the surroundings that is not what it was; None where it isn't known."""

    name: str
    then: str | None
    now: str | None

    def __str__(self) -> str:
        return f"{self.name} {self.then or 'not recorded'}, now {self.now or 'not recorded'}"


def changes(original: Manifest, again: Manifest) -> list[Change]:
    """Return what differs, or isn't known of the original, in the order of telling.

    The image is left out: outside a cluster a run doesn't know its own, and the versions say what is in it.
    """
    return [*_machine(original, again), *_versions(original, again)]


def _machine(original: Manifest, again: Manifest) -> Iterator[Change]:
    for key, name in _MACHINE.items():
        then, now = _text(original.machine.get(key)), _text(again.machine.get(key))
        if then != now and not (key == _OPTIONAL and None in (then, now)):
            yield Change(name=name, then=then, now=now)


def _versions(original: Manifest, again: Manifest) -> Iterator[Change]:
    for name in sorted(original.versions.keys() | again.versions.keys()):
        then, now = _text(original.versions.get(name)), _text(again.versions.get(name))
        if then != now:
            yield Change(name=name, then=then, now=now)


def _text(value: Any) -> str | None:
    """A value of somebody's document, short and on one line."""
    return None if value is None else " ".join(str(value).split())[:80]
