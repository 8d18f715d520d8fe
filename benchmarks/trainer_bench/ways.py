"""The ways to train that are compared, and how the settings of each are found: pure, but for the file that keeps them.

A setting is changed at a time, and the fastest found so far is what the next one is tried on. What was tried is part of
the result, and is kept in ``tuned.json`` with its day, since trying takes as long as measuring.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.trainer_bench.worker import Settings

__all__ = [
    "TUNED",
    "Step",
    "Tried",
    "Way",
    "axes",
    "best",
    "hopeless",
    "load",
    "save",
    "search",
    "slow_kind",
    "start",
    "ways",
]

TUNED: Final = Path(__file__).with_name("tuned.json")
Measure = Callable[[str, Settings], Mapping[str, Any] | None]
"""Of a library and its settings; None where it was stopped because it took too long."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """A row of the table: ``library`` is ours, trl or trainer."""

    name: str
    library: str
    settings: Settings

    @property
    def ours(self) -> bool:
        """Whether this repository's loop is what runs."""
        return self.library == "ours"


@dataclass(frozen=True, kw_only=True)
class Tried:
    """Settings and what they gave; None: stopped because a run took too long."""

    settings: Settings
    tokens_per_second: float | None
    peak_mib: float | None

    def to_json(self) -> dict[str, Any]:
        """Return it as it is kept."""
        return {
            "settings": self.settings,
            "tokens_per_second": self.tokens_per_second and round(self.tokens_per_second, 1),
            "peak_mib": self.peak_mib and round(self.peak_mib),
        }


@dataclass(frozen=True, kw_only=True)
class Step:
    """An optimizer step: its rows, its tokens on average, and the tokens of the longest row of all."""

    rows: int
    tokens: int
    longest: int

    @property
    def packs(self) -> dict[int, int]:
        """Lengths of packs, by how many hold a step: of other lengths, the optimizer would take other steps.

        A pack is at least as long as the longest row, which would be cut otherwise.
        """
        fitting = {n: self.tokens // n for n in (1, 2, 4) if self.tokens // n >= self.longest}
        return fitting or {1: self.longest}


def start(library: str, batch: int, tried: Sequence[Tried] = ()) -> Settings:
    """What the search begins with; the plain trainer, with the fastest padded settings of those ``tried`` for TRL.

    TRL's trainer is transformers' below its layouts, so what is fast there is fast here.
    """
    if library == "ours":
        return {}
    padded = [t for t in tried if t.settings["layout"] == "padded"]
    if padded:
        return best(padded).settings
    return {"layout": "padded", "precision": "float32", "attention": "sdpa", "micro": batch}


def axes(library: str, step: Step) -> tuple[tuple[Settings, ...], ...]:
    """Return the changes to try, one group after the other."""
    batch = step.rows
    if library == "ours":
        return (tuple({"tokens": n} for n in (256, 512, 1024, 2048)),)
    if library == "trainer":
        return (({"attention": "sdpa"}, {"attention": "eager"}),)
    precisions: tuple[Settings, ...] = ({"precision": "bfloat16"}, {"precision": "autocast"})
    sizes = [n for n in (8, 4, 2, 1) if n < batch]
    layouts: list[Settings] = [{"layout": "padded", "micro": n} for n in sizes]
    layouts += [{"layout": "free", "micro": n} for n in (batch, *sizes)]
    layouts += [{"layout": "packed", "packs": n, "length": length, "micro": 1} for n, length in step.packs.items()]
    return (precisions, ({"attention": "eager"},), tuple(layouts), ({"attention": "sdpa"}, {"attention": "eager"}))


def search(library: str, measure: Measure, step: Step, *, trl: Sequence[Tried] = ()) -> list[Tried]:
    """Try settings, a group of changes after the other, each on the fastest so far; no settings twice.

    ``trl`` is what was tried for TRL, where the plain trainer begins.
    """
    tried: list[Tried] = []

    def attempt(settings: Settings) -> None:
        if settings not in [t.settings for t in tried]:
            found = measure(library, settings)
            tried.append(
                Tried(
                    settings=settings,
                    tokens_per_second=found["tokens"] / found["seconds"] if found else None,
                    peak_mib=found["peak_mib"] if found else None,
                )
            )

    attempt(start(library, step.rows, trl))
    for group in axes(library, step):
        base = best(tried).settings
        for change in group:
            attempt({**base, **change})
    if library == "trl":
        attempt({"layout": "default"})
    return tried


def best(tried: Sequence[Tried]) -> Tried:
    """Return the fastest.

    Raises
    ------
    ValueError
        Nothing was fast enough to be measured.
    """
    measured = [t for t in tried if t.tokens_per_second is not None]
    if not measured:
        raise ValueError("every setting that was tried took too long; the machine is too slow for this benchmark")
    return max(measured, key=lambda t: t.tokens_per_second or 0.0)


def ways(tried: Mapping[str, Sequence[Tried]], *, beginning: bool) -> list[Way]:
    """Return the rows of the table for a dataset; ``beginning``: its rows begin alike, which ours computes once."""
    rows = [Way(name="ours", library="ours", settings={})]
    if beginning:
        rows.append(Way(name="ours, beginning not shared", library="ours", settings={"shared": False}))
    rows += [
        Way(name="TRL, tuned", library="trl", settings=best(tried["trl"]).settings),
        Way(name="transformers Trainer, tuned", library="trainer", settings=best(tried["trainer"]).settings),
        Way(name="ours, once more", library="ours", settings={}),
    ]
    return rows


def hopeless(kind: str, path: Path = TUNED) -> set[str]:
    """Return what took too long in all that is kept for this kind of processor: a precision, or TRL as it comes.

    A method with fewer trained parameters is no help to arithmetic that the processor has to emulate.
    """
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    tries = [
        one
        for key, found in kept.items()
        if key.endswith(f", {kind}")
        for of_dataset in found["tried"].values()
        for of_library in of_dataset.values()
        for one in of_library
    ]
    kinds = {slow_kind(one["settings"]) for one in tries if one["tokens_per_second"] is None}
    return kinds - {slow_kind(one["settings"]) for one in tries if one["tokens_per_second"] is not None}


def slow_kind(settings: Settings) -> str:
    """Name what of some settings makes them slow everywhere: the precision, or the layout that brings its own."""
    return str(settings.get("precision", settings.get("layout")))


def load(kind: str, method: str, batch: int, path: Path = TUNED) -> dict[str, Any] | None:
    """Return what is kept for this kind of processor, this method and this size of a step, or None."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found: dict[str, Any] | None = kept.get(f"{method}, {batch} rows, {kind}")
    return found


def save(kind: str, method: str, batch: int, found: Mapping[str, Any], path: Path = TUNED) -> None:
    """Keep what was found, beside what was found for others."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kept[f"{method}, {batch} rows, {kind}"] = dict(found)
    path.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
