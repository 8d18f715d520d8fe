"""Counts what the operator asked of the API server, from the server's own audit log.

The log is the believable witness: it holds every request that arrived, retries and conflicts too, whoever sent it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["Requests", "count_requests"]

WRITES: Final = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(frozen=True)
class Requests:
    """What was asked about one namespace's jobs.

    Attributes
    ----------
    by_kind
        Requests by verb, resource (``jobs``, ``finetunejobs/status``) and status code; watches left out.
    writes
        Writes other than events.
    events
        Events written.
    """

    by_kind: Counter[tuple[str, str, int]]

    @property
    def writes(self) -> int:
        """Writes other than events, whatever the answer was."""
        return sum(n for (verb, what, _), n in self.by_kind.items() if verb in WRITES and what != "events")

    @property
    def events(self) -> int:
        """Events written."""
        return sum(n for (verb, what, _), n in self.by_kind.items() if verb in WRITES and what == "events")

    @property
    def reads(self) -> int:
        """Gets and lists."""
        return sum(self.by_kind.values()) - self.writes - self.events

    @property
    def refused(self) -> int:
        """Writes that were answered with an error; conflicts for example."""
        return sum(n for (verb, _, code), n in self.by_kind.items() if verb in WRITES and code >= 400)


def count_requests(lines: Iterable[str], *, namespace: str, user: str) -> Requests:
    """Count the requests of ``user`` that concern ``namespace``.

    Parameters
    ----------
    lines
        Of an audit log with at least the level Metadata and the stage ResponseComplete.
    """
    tally: Counter[tuple[str, str, int]] = Counter()
    for line in lines:
        entry: dict[str, Any] = json.loads(line)
        what = entry.get("objectRef") or {}
        if entry["stage"] != "ResponseComplete" or entry["verb"] == "watch":
            continue
        if entry["user"]["username"] != user or what.get("namespace") != namespace:
            continue
        resource = "/".join(part for part in (what["resource"], what.get("subresource")) if part)
        tally[entry["verb"], resource, int(entry["responseStatus"]["code"])] += 1
    return Requests(tally)
