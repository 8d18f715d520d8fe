"""Brings the FineTuneRuntime of the installation to the API server, and back when somebody has deleted it.

Beside the workers: a task of the engine, woken by the watch. What is to be done is decided in
``decide/installation.py``; a refusal is told in the log and keeps the operator from being ready, so that a release
that waits for it (``helm --wait``, Argo CD, Flux) does not count as well, while jobs are worked on all the same.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Final

from finetune_operator.cluster.patches import merge_patch
from finetune_operator.cluster.protocol import (
    ClusterError,
    ClusterGateway,
    ConflictError,
    NotFoundError,
    Raw,
    UnavailableError,
)
from finetune_operator.cluster.views import as_dict, as_text, metadata
from finetune_operator.decide.installation import InstalledRuntime, next_step

__all__ = ["Installer"]

log = logging.getLogger(__name__)

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
"""Seconds between two tries of what failed; doubles from ``FIRST_PAUSE``."""


class Installer:
    """Keeps one FineTuneRuntime in the cluster.

    Parameters
    ----------
    interval
        Seconds after which it looks without being woken, should a watch have missed the deletion.

    Attributes
    ----------
    trouble
        Why the runtime does not stand in the cluster yet; None once it does, or once it is known to be another's.
    """

    def __init__(self, gateway: ClusterGateway, runtime: InstalledRuntime, *, interval: float) -> None:
        self._gateway = gateway
        self._runtime = runtime
        self._interval = interval
        self._wake = asyncio.Event()
        self._pause = FIRST_PAUSE
        self._told_foreign = self._stood = False
        self.trouble: str | None = f"FineTuneRuntime {runtime.name} is not in the cluster yet"

    def deleted(self, name: str | None) -> None:
        """Take note that a FineTuneRuntime has gone."""
        if name == self._runtime.name:
            self._wake.set()

    async def run(self) -> None:
        """Look, act, and wait until there may be something to do again; for ever."""
        while True:
            self._wake.clear()
            pause = await self._once()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)

    async def _once(self) -> float:
        """Do what there is to do; returns the seconds until the next look."""
        try:
            await self._do()
        except ClusterError as error:
            told = f"FineTuneRuntime {self._runtime.name} could not be applied: {error.message}"
            # Once it stood, a look that fails says nothing about whether it still does.
            self.trouble = None if self._stood else told
            pause, self._pause = self._pause, min(LONGEST_PAUSE, 2 * self._pause)
            passes = isinstance(error, UnavailableError | ConflictError)
            log.log(
                logging.WARNING if passes else logging.ERROR,
                "%s; trying again in %.0f s",
                told,
                pause,
                extra={"event": "ApiUnavailable" if passes else "RuntimeRefused"},
            )
            return pause
        self.trouble, self._pause, self._stood = None, FIRST_PAUSE, True
        return self._interval

    async def _do(self) -> None:
        name = self._runtime.name
        stored = await self._stored()
        step = next_step(self._runtime, stored)
        if step == "create":
            await self._gateway.apply_runtime(name, self._runtime.manifest)
        elif step == "renew" and stored is not None:
            version = as_text(metadata(stored).get("resourceVersion")) or ""
            await self._gateway.patch_runtime(name, resource_version=version, patch=self._renewal(stored))
        if step in ("create", "renew"):
            log.info("FineTuneRuntime %s was applied", name, extra={"event": "RuntimeApplied"})
        if step == "foreign" and not self._told_foreign:
            log.warning(
                "FineTuneRuntime %s was made by somebody else and is left as it is; set runtime.create=false or "
                "another runtime.name in the chart's values, or delete the object",
                name,
                extra={"event": "RuntimeForeign"},
            )
        self._told_foreign = step == "foreign"

    def _renewal(self, stored: Raw) -> Raw:
        """Return the merge patch that makes the stored spec that of the manifest.

        Fields that were added by hand go too, which an apply would leave to whoever added them. What the API server had
        filled in it fills in again.
        """
        wanted = self._runtime.manifest
        marks = {key: wanted["metadata"][key] for key in ("labels", "annotations") if key in wanted["metadata"]}
        return {"metadata": marks, "spec": merge_patch(as_dict(stored.get("spec")), as_dict(wanted.get("spec")))}

    async def _stored(self) -> Raw | None:
        try:
            return await self._gateway.get_runtime(self._runtime.name)
        except NotFoundError:
            return None
