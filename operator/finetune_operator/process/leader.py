"""Holds the Lease of the leader, or waits for it, and says at any moment whether this process may write.

Stands before the workers: the engine begins to work once it leads (``__main__``), and the gateway asks
:meth:`Elector.may_write` before every write, so that a leader which slept through its own end writes nothing when it
wakes. Where the API server can't be reached the leader only waits: a renewal on the very version that it knows shows
that nobody else has led since. What ends the process is another holder, because work that was begun under the old
Lease can't be told from new work.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Final, Protocol

from finetune_operator.cluster.protocol import (
    ClusterError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    Raw,
)
from finetune_operator.cluster.views import as_dict, as_text, metadata
from finetune_operator.decide.leader import Sight, Terms

__all__ = ["Elector", "Leases", "awake"]

log = logging.getLogger(__name__)

JITTER: Final = 0.1
DENIALS_TO_TELL: Final = 3
"""Times in a row that a right has to be missing before that is an error: an API server that starts knows of none."""
RELEASE_SECONDS: Final = 3.0
"""Time to give the Lease back at the end."""


class Leases(Protocol):
    """What is asked of the API server."""

    async def get_lease(self, namespace: str, name: str) -> Raw:
        """Return a Lease."""
        ...

    async def put_lease(self, namespace: str, name: str, *, resource_version: str, spec: Raw) -> Raw:
        """Write a Lease if it still has this version, or create it where that is empty; anything else: a conflict."""
        ...


def awake() -> float:
    """Seconds of a clock that never jumps, and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Elector:
    """One candidate.

    Parameters
    ----------
    me
        Name of this candidate that no other one ever has.
    stamp
        The time as it is written into the Lease, for people.
    waits
        Called with the name of another candidate that was seen to lead.
    lost
        Called, with a sentence, when another one has taken the Lease from this process; not to return.

    Attributes
    ----------
    leads
        Set once the Lease is held.
    """

    def __init__(
        self,
        leases: Leases,
        *,
        namespace: str,
        name: str,
        me: str,
        terms: Terms,
        stamp: Callable[[], str],
        lost: Callable[[str], None],
        waits: Callable[[str], None] = lambda _holder: None,
        clock: Callable[[], float] = awake,
    ) -> None:
        self._leases, self._namespace, self._name, self._me = leases, namespace, name, me
        self._terms, self._stamp, self._clock = terms, stamp, clock
        self._lost, self._waits = lost, waits
        self._sight = Sight(me, terms)
        self._version: str | None = None
        """The version that this process wrote last; None: it has to look first."""
        self._until = float("-inf")
        self._told: str | None = None
        self._denials = 0
        self.leads = asyncio.Event()

    def may_write(self) -> bool:
        """Tell whether nobody else can lead now."""
        return self._clock() < self._until

    async def run(self) -> None:
        """Wait for the Lease, then hold it; ends only when it is lost."""
        while not await self._tried():
            await self._pause()
        self._tell_of_the_start()
        self.leads.set()
        while True:
            await self._pause()
            held = await self._tried()
            if held is False:
                self._until = float("-inf")
                return self._lost(f"{self._sight.holder or 'Nobody'} holds Lease {self._name} now")

    async def release(self) -> None:
        """Give the Lease back, if it is held; from now on nothing may be written."""
        held, self._until = self.may_write(), float("-inf")
        if not held or self._version is None:
            return
        spec = self._sight.released(self._stamp())
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                await self._leases.put_lease(self._namespace, self._name, resource_version=self._version, spec=spec)
        except (ClusterError, TimeoutError) as error:
            log.warning("Lease %s could not be given back: %s", self._name, error, extra={"event": "LeaseNotReleased"})
        else:
            log.info("Gave Lease %s back", self._name, extra={"event": "LeaseReleased"})

    # --- one try ------------------------------------------------------------------------------------------------------

    async def _tried(self) -> bool | None:
        """Take or renew the Lease; returns whether it is held, None where that could not be found out."""
        try:
            async with asyncio.timeout(self._terms.renew / 2):
                held = await self._try()
        except ConflictError:
            self._version = None  # somebody was faster; the next look says who
            return None
        except (ClusterError, TimeoutError) as error:
            self._version = None
            self._tell_of_the_fault(error)
            return None
        self._told, self._denials = None, 0
        return held

    async def _try(self) -> bool:
        if self._version is None:
            found = await self._found()
            spec = None if found is None else as_dict(found.get("spec"))
            step = self._sight.look(spec, self._clock())
            # A leader that finds the Lease free had lost it: somebody else may have led in between.
            if step == "wait" or (step == "take" and self.leads.is_set()):
                if self._sight.follows and not self.leads.is_set():
                    self._waits(self._sight.holder)
                return False
            version = "" if found is None else as_text(metadata(found).get("resourceVersion")) or ""
        else:
            version = self._version
        began = self._clock()
        stored = await self._leases.put_lease(
            self._namespace, self._name, resource_version=version, spec=self._sight.held(self._stamp())
        )
        self._sight.look(as_dict(stored.get("spec")), self._clock())
        self._version = as_text(metadata(stored).get("resourceVersion"))
        self._until = began + self._terms.renew
        return True

    async def _found(self) -> Raw | None:
        try:
            return await self._leases.get_lease(self._namespace, self._name)
        except NotFoundError:
            return None

    async def _pause(self) -> None:
        await asyncio.sleep(self._terms.retry * (1 + JITTER * random.random()))  # noqa: S311 - spreads load

    # --- the log ------------------------------------------------------------------------------------------------------

    def _tell_of_the_start(self) -> None:
        heard = self._sight.heard
        vacant = None if heard is None else round(self._clock() - heard, 1)
        log.info(
            "Leading%s",
            "" if vacant is None else f"; the one before was last heard {vacant} s ago",
            extra={"event": "Leading", "fields": {"holder": self._me, "takeoverSeconds": vacant}},
        )

    def _tell_of_the_fault(self, error: Exception) -> None:
        """Log a fault once, and once more when it keeps this process from writing."""
        stopped = self.leads.is_set() and not self.may_write()
        self._denials = self._denials + 1 if isinstance(error, ForbiddenError | InvalidError) else 0
        denied = self._denials >= DENIALS_TO_TELL
        told = f"{type(error).__name__} {stopped} {denied}"
        if told == self._told:
            return
        self._told = told
        log.log(
            logging.ERROR if denied else logging.WARNING,
            "Lease %s could not be %s: %s; %strying again every %d s",
            self._name,
            "renewed" if self.leads.is_set() else "had",
            str(error) or "no answer in time",
            "nothing is written until then; " if stopped else "",
            self._terms.retry,
            extra={"event": "PermissionDenied" if denied else "LeaseNotRenewed"},
        )
