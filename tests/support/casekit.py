"""The words that the tables of :mod:`tests.support.cases` are written in: a case, and families of cases for a bound."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["ABSENT", "MINIMAL", "Case", "Edits", "Kind", "edited", "not_yet"]

ABSENT: Final = object()
"""As the value of an edit: remove the field."""

MINIMAL: Final[Mapping[str, dict[str, Any]]] = {
    "FineTuneJob": {
        "model": {"uri": "hf://org/name"},
        "dataset": {"uri": "s3://bucket/rows.jsonl", "template": {"name": "intent"}},
    },
    "FineTuneRuntime": {"image": "registry.example/trainer@sha256:" + "0" * 64},
}

Edits = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """One spec and the verdict that it deserves.

    Attributes
    ----------
    kind, title
        Which kind, and what the case is about.
    edits
        Dotted path -> value, applied to the kind's minimal spec.
    field
        Path of the refused field; empty if the spec is valid.
    says
        Texts that every refusal contains: of a rule its whole message, of a bound the bound itself.
    """

    kind: str
    title: str
    edits: Edits
    field: str = ""
    says: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}: {self.title}"

    @property
    def spec(self) -> dict[str, Any]:
        """The spec of the case."""
        return edited(MINIMAL[self.kind], self.edits)


def edited(spec: Mapping[str, Any], edits: Edits) -> dict[str, Any]:
    """Copy a spec with values at dotted paths replaced, blocks on the way made, ABSENT ones removed."""
    out: dict[str, Any] = copy.deepcopy(dict(spec))
    for path, value in edits.items():
        *parents, leaf = path.split(".")
        block: dict[str, Any] = functools.reduce(lambda b, key: b.setdefault(key, {}), parents, out)
        if value is ABSENT:
            block.pop(leaf, None)
        else:
            block[leaf] = copy.deepcopy(value)
    return out


@dataclass(frozen=True)
class Kind:
    """Makes cases of one kind."""

    kind: str

    def ok(self, title: str, edits: Edits) -> Case:
        return Case(self.kind, title, edits)

    def no(self, field: str, title: str, edits: Edits, *says: str) -> Case:
        return Case(self.kind, title, edits, field, says)

    def integer(
        self, path: str, low: int, high: int, *, with_: Edits | None = None, ok: Iterable[int] | None = None
    ) -> Iterator[Case]:
        """Bounds of an integer; ``ok`` are the accepted values (the bounds themselves unless a rule forbids them)."""
        more = with_ or {}
        for value in (low, high) if ok is None else ok:
            yield self.ok(f"{path}={value}", {path: value, **more})
        yield self.no(path, f"{path}={low - 1}", {path: low - 1, **more}, f"greater than or equal to {low}")
        yield self.no(path, f"{path}={high + 1}", {path: high + 1, **more}, f"less than or equal to {high}")
        yield self.no(path, f"{path} as text", {path: str(low), **more}, "integer")

    def text(
        self,
        path: str,
        longest: int,
        fill: Callable[[int], str],
        *,
        shortest: int = 0,
        at: str = "",
        wrap: Callable[[str], Any] = lambda text: text,
        with_: Edits | None = None,
        reachable: bool = True,
    ) -> Iterator[Case]:
        """Lengths of a string; ``fill(n)`` is a valid text of n characters; ``at`` is where a list holds it."""
        more, field = with_ or {}, at or path
        if reachable:
            yield self.ok(f"{field} of {longest}", {path: wrap(fill(longest)), **more})
        yield self.no(field, f"{field} of {longest + 1}", {path: wrap(fill(longest + 1)), **more}, str(longest))
        if shortest:
            short = fill(shortest)[: shortest - 1]
            yield self.no(field, f"{field} of {shortest - 1}", {path: wrap(short), **more}, f"at least {shortest}")

    def pattern(
        self,
        path: str,
        good: Iterable[str],
        bad: Iterable[str],
        *,
        at: str = "",
        wrap: Callable[[str], Any] = lambda text: text,
        with_: Edits | None = None,
    ) -> Iterator[Case]:
        """Texts that match a pattern and texts that don't."""
        more, field = with_ or {}, at or path
        for text in good:
            yield self.ok(f"{field}={text[:60]!r}", {path: wrap(text), **more})
        for text in bad:
            yield self.no(field, f"{field}={text[:60]!r}", {path: wrap(text), **more}, "match")

    def choice(
        self,
        path: str,
        *good: str,
        also: Iterable[str] = (),
        at: str = "",
        wrap: Callable[[str], Any] = lambda t: t,
        with_: Edits | None = None,
    ) -> Iterator[Case]:
        """Values of an enum; ``also`` are values that a rule forbids although the enum has them."""
        field = at or path
        for value in good:
            yield self.ok(f"{field}={value}", {**(with_ or {}), path: wrap(value)})
        yield self.no(field, f"{field}=nonsense", {**(with_ or {}), path: wrap("nonsense")}, *good, *also)

    def flag(self, path: str, *, ok: Iterable[bool] = (True, False)) -> Iterator[Case]:
        """A boolean."""
        for value in ok:
            yield self.ok(f"{path}={value}", {path: value})
        yield self.no(path, f"{path} as text", {path: "true"}, "boolean")

    def name(
        self,
        path: str,
        *,
        longest: int = 253,
        at: str = "",
        wrap: Callable[[str], Any] = lambda text: text,
        with_: Edits | None = None,
    ) -> Iterator[Case]:
        """Name of another object (DNS-1123 subdomain)."""
        yield from self.text(path, longest, lambda n: "n" * n, shortest=1, at=at, wrap=wrap, with_=with_)
        yield from self.pattern(
            path, ["a", "0a.b-c"], ["A", "-a", "a-", "a_b", "a..b", "a\n"], at=at, wrap=wrap, with_=with_
        )

    def items(self, path: str, low: int, high: int, item: Callable[[int], Any]) -> Iterator[Case]:
        """Lengths of a list."""
        yield self.ok(f"{high} {path}", {path: [item(i) for i in range(high)]})
        yield self.no(path, f"{high + 1} {path}", {path: [item(i) for i in range(high + 1)]}, f"at most {high} items")
        if low:
            yield self.ok(f"{low} {path}", {path: [item(i) for i in range(low)]})
            few = {path: [item(i) for i in range(low - 1)]}
            yield self.no(path, f"{low - 1} {path}", few, f"at least {low} items")


def not_yet(what: str, mend: str = "leave it out") -> str:
    """The message of a field whose behaviour this version lacks."""
    return f"{what} is not supported by this version of the operator; {mend}"
