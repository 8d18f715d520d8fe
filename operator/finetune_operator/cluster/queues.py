"""Reads what Kueue says of a child that it does not let run.

Used by ``observe.py`` for suspended children that stand in a queue, and for no others: Workloads are not watched, since
most clusters have none, and of an admission the watched Job tells. Kueue only explains; a job goes on without that.
"""

from __future__ import annotations

import logging

from finetune_operator.cluster.protocol import ClusterError, ClusterGateway, ForbiddenError, JobKey, NotFoundError, Raw
from finetune_operator.cluster.views import as_dict, as_text, condition, metadata
from finetune_operator.decide.plan import ChildView, QueueWord

__all__ = ["QueueReader", "word_of"]

log = logging.getLogger(__name__)


class QueueReader:
    """Asks for Workloads in the version that the API server prefers."""

    def __init__(self, gateway: ClusterGateway) -> None:
        self._gateway = gateway
        self._version: str | None = None

    async def word(self, key: JobKey, child: ChildView) -> QueueWord | None:
        """Return what Kueue says of a child; None if that can't be read now."""
        try:
            return await self._read(key, child)
        except NotFoundError:
            self._version = None  # Kueue has gone, or serves another version by now
        except ForbiddenError:
            return QueueWord(readable=False)
        except ClusterError as error:
            log.warning(
                "Kueue's Workloads could not be read: %s", error, extra={"event": "QueueUnreadable", "job": str(key)}
            )
        return None

    async def _read(self, key: JobKey, child: ChildView) -> QueueWord:
        if self._version is None:
            self._version = await self._gateway.kueue_version()
        if self._version is None:
            return QueueWord(installed=False)
        workloads = await self._gateway.list_workloads(self._version, key.namespace, child_uid=child.uid)
        if workloads:
            return word_of(max(workloads, key=lambda raw: str(metadata(raw).get("creationTimestamp"))))
        return QueueWord(priority_missing=await self._lacks_priority_class(self._version, child.priority))

    async def _lacks_priority_class(self, version: str, name: str | None) -> bool:
        if name is None:
            return False
        try:
            await self._gateway.get_workload_priority_class(version, name)
        except NotFoundError:
            return True
        return False


def word_of(workload: Raw) -> QueueWord:
    """Read a Workload."""
    status = as_dict(workload.get("status"))
    quota, evicted = condition(status, "QuotaReserved"), condition(status, "Evicted")
    waits, gone = quota.get("status") == "False", evicted.get("status") == "True"
    return QueueWord(
        workload=as_text(metadata(workload).get("name")),
        reason=as_text(quota.get("reason")) if waits else None,
        message=as_text(quota.get("message")) if waits else None,
        evicted=as_text(evicted.get("reason")) if gone else None,
        evicted_message=as_text(evicted.get("message")) if gone else None,
    )
