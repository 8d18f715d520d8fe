"""Applies FineTuneJobs and watches what becomes of them, with the client's own clock.

``creationTimestamp`` counts whole seconds, so every moment here is ``time.monotonic()`` when a watch event arrived.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from finetune_api import API_VERSION, JOB_KIND, JOB_PLURAL
from finetune_api.names import LABEL_JOB_NAME, LABEL_STAGE
from tests.support.apiserver import ADMIN_TOKEN, ApiServer

__all__ = ["Client", "Timeline"]

CONNECTIONS: Final = 32
Moments = dict[str, float]


@dataclass
class Timeline:
    """Moments on the client's monotonic clock, by the job's name.

    Attributes
    ----------
    answered
        The API server answered the create of the FineTuneJob.
    child_seen, child_complete
        A stage's child Job was added, and said Complete; by stage.
    finished
        The FineTuneJob said Finished.
    last
        The newest FineTuneJob of that name.
    """

    first_post: float = 0.0
    answered: Moments = field(default_factory=dict)
    child_seen: dict[str, Moments] = field(default_factory=dict)
    child_complete: dict[str, Moments] = field(default_factory=dict)
    finished: Moments = field(default_factory=dict)
    last: dict[str, dict[str, Any]] = field(default_factory=dict)

    def saw_child(self, child: dict[str, Any], when: float) -> None:
        """Note a watch event of a child Job."""
        labels = child["metadata"].get("labels", {})
        name, stage = labels[LABEL_JOB_NAME], labels[LABEL_STAGE]
        self.child_seen.setdefault(stage, {}).setdefault(name, when)
        if _true(child, "Complete"):
            self.child_complete.setdefault(stage, {}).setdefault(name, when)

    def saw_job(self, job: dict[str, Any], when: float) -> None:
        """Note a watch event of a FineTuneJob."""
        name = job["metadata"]["name"]
        self.last[name] = job
        if _true(job, "Finished"):
            self.finished.setdefault(name, when)


def _true(raw: dict[str, Any], kind: str) -> bool:
    conditions = raw.get("status", {}).get("conditions", [])
    return any(c["type"] == kind and c["status"] == "True" for c in conditions)


class Client:
    """An administrator's connection to one namespace."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, namespace: str, timeline: Timeline | None = None
    ) -> None:
        self._session = session
        self._jobs = f"{url}/apis/{API_VERSION}/namespaces/{namespace}/{JOB_PLURAL}"
        self._children = f"{url}/apis/batch/v1/namespaces/{namespace}/jobs"
        self._watches: list[asyncio.Task[None]] = []
        self.timeline = timeline or Timeline()

    @classmethod
    @asynccontextmanager
    async def watching(cls, api: ApiServer, namespace: str, timeline: Timeline | None = None) -> AsyncIterator[Client]:
        """Connect, and watch both kinds while the block runs; what is seen goes into ``timeline``."""
        context = ssl.create_default_context(cafile=str(api.ca_file))
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS + 2, ssl=context),
            headers={"Authorization": f"Bearer {ADMIN_TOKEN}"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
        ) as session:
            client = cls(session, api.url, namespace, timeline)
            client._watches = [
                asyncio.create_task(client._watch(client._jobs, client.timeline.saw_job)),
                asyncio.create_task(client._watch(client._children, client.timeline.saw_child)),
            ]
            try:
                yield client
            finally:
                for watch in client._watches:
                    watch.cancel()
                await asyncio.wait(client._watches)

    async def _watch(self, path: str, saw: Callable[[dict[str, Any], float], None]) -> None:
        """Watch for ever: the API server ends a watch when it likes, at the latest when a CRD is served anew."""
        async with self._session.get(path) as response:
            response.raise_for_status()
            version = (await response.json())["metadata"]["resourceVersion"]
        while True:
            query = {"watch": "1", "resourceVersion": version, "timeoutSeconds": "3600"}
            async with self._session.get(path, params=query) as response:
                response.raise_for_status()
                rest = b""
                # Lines are cut by hand: aiohttp's own line reader refuses long ones.
                async for chunk in response.content.iter_any():
                    when = time.monotonic()
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        event = json.loads(line)
                        if event["type"] == "ERROR":
                            raise RuntimeError(f"watch of {path}: {event['object']}")
                        version = event["object"]["metadata"]["resourceVersion"]
                        saw(event["object"], when)

    async def apply(self, name: str, spec: dict[str, Any]) -> None:
        """Create one FineTuneJob."""
        body = {"apiVersion": API_VERSION, "kind": JOB_KIND, "metadata": {"name": name}, "spec": spec}
        async with self._session.post(self._jobs, json=body) as response:
            if response.status != 201:
                raise RuntimeError(f"{name} was refused: {await response.text()}")
            await response.read()
            self.timeline.answered[name] = time.monotonic()

    async def apply_all(self, names: list[str], spec: dict[str, Any]) -> None:
        """Create all at once, over :data:`CONNECTIONS` connections."""
        queue = list(reversed(names))

        async def work() -> None:
            while queue:
                await self.apply(queue.pop(), spec)

        self.timeline.first_post = time.monotonic()
        await asyncio.gather(*(work() for _ in range(CONNECTIONS)))

    async def apply_slowly(self, names: list[str], spec: dict[str, Any], *, pause: float) -> None:
        """Create one after the other."""
        self.timeline.first_post = time.monotonic()
        for name in names:
            await self.apply(name, spec)
            await asyncio.sleep(pause)

    async def until_finished(self, names: list[str], *, within: float) -> None:
        """Wait until all have ended, well or not.

        Raises
        ------
        TimeoutError
            Some have not; the message names up to five with what they say.
        Exception
            What has ended a watch.
        """
        end = time.monotonic() + within
        while waiting := [name for name in names if name not in self.timeline.finished]:
            for watch in self._watches:
                if watch.done():
                    await watch
            if time.monotonic() > end:
                said = [f"{name}: {self.timeline.last.get(name, {}).get('status')}" for name in waiting[:5]]
                raise TimeoutError(f"{len(waiting)} jobs have not ended after {within:.0f} s:\n" + "\n".join(said))
            await asyncio.sleep(0.05)
