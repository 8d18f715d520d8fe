"""Who leads: what is to be done about the one Lease that operators of an installation share. Pure.

The rules are client-go's. What stands in the Lease was stamped by another machine's clock, so its times are never
compared with anything: a candidate measures, by a clock of its own, for how long it has seen no change.
``process/leader.py`` asks and acts; that a write needs the version that was looked at makes two winners impossible.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

__all__ = ["MOST_SECONDS", "Sight", "Step", "Terms"]

Step = Literal["create", "take", "renew", "wait"]

MOST_SECONDS: Final = 300
"""The longest that a Lease may hold without being renewed, whatever stands in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """How long what holds, in seconds.

    Attributes
    ----------
    lease
        A Lease that has not changed for so long may be taken.
    renew
        The leader writes nothing once its last renewal was begun so long ago. Less than ``lease``: what is on its way
        by then has time to arrive before another one leads.
    retry
        Between two looks at the Lease, and between two renewals.
    """

    lease: int = 15
    renew: int = 10
    retry: int = 2


class Sight:
    """The Lease as one candidate has seen it.

    Attributes
    ----------
    holder
        Who holds it; empty: nobody.
    heard
        When the last change of somebody else's hold was seen; None: there was none.
    follows
        Whether another candidate was seen to be at work: to take or renew the Lease.
    """

    def __init__(self, me: str, terms: Terms) -> None:
        self._me, self._terms = me, terms
        self._spec: dict[str, Any] | None = None
        self._since = 0.0
        self.holder = ""
        self.heard: float | None = None
        self.follows = False

    def look(self, spec: dict[str, Any] | None, at: float) -> Step:
        """Take the Lease's spec as it stands at a time of one's own clock; None: there is no Lease."""
        if spec is None:
            # One that somebody has deleted frees nobody: who held it learns of that with the next renewal only.
            if self.holder not in ("", self._me) and at - self._since <= self._holds(self._spec or {}):
                return "wait"
            self._spec, self.holder = None, ""
            return "create"
        if spec != self._spec:
            first, self._spec, self._since = self._spec is None, spec, at
            self.holder = _text(spec.get("holderIdentity"))
            if self.holder not in ("", self._me):
                self.heard, self.follows = at, self.follows or not first
        if self.holder == self._me:
            return "renew"
        if not self.holder or at - self._since > self._holds(spec):
            return "take"
        return "wait"

    def held(self, stamp: str) -> dict[str, Any]:
        """Return the spec by which this candidate holds the Lease from now on."""
        before = self._spec or {}
        transitions, mine = _whole(before.get("leaseTransitions")), before.get("holderIdentity") == self._me
        return {
            "holderIdentity": self._me,
            "leaseDurationSeconds": self._terms.lease,
            "acquireTime": (before.get("acquireTime") if mine else None) or stamp,
            "renewTime": stamp,
            "leaseTransitions": transitions if mine or self._spec is None else transitions + 1,
        }

    def released(self, stamp: str) -> dict[str, Any]:
        """Return the spec by which nobody holds it."""
        return {
            "holderIdentity": "",
            "leaseDurationSeconds": 1,
            "acquireTime": stamp,
            "renewTime": stamp,
            "leaseTransitions": _whole((self._spec or {}).get("leaseTransitions")),
        }

    def _holds(self, spec: dict[str, Any]) -> float:
        """For how long a hold lasts: by the holder's terms or one's own, whichever is longer."""
        return max(self._terms.lease, min(MOST_SECONDS, _whole(spec.get("leaseDurationSeconds"))))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
