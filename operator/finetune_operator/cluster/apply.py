"""Carries a ``Plan`` out: status first, then actions behind the guard, Events last.

Called by ``controller.py`` after each reconcile. The order and the guard are what make a crash after any single write
harmless: what was done stands in the cluster, and the next run finds it there. Before a child is created the job
itself, the child's name and the job's pods are read live, so that neither a stale cache nor a second operator makes a
second pod. Only a child that the plan knows to be the stage's first needs no such reads: the status that is written
before it, on the version that the plan was made from, is what nobody can have written before.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from finetune_api import API_VERSION, JOB_KIND
from finetune_api.names import MANAGED_BY
from finetune_operator.cluster.cache import Cache
from finetune_operator.cluster.patches import merge_patch
from finetune_operator.cluster.protocol import (
    AlreadyExistsError,
    ClusterError,
    ClusterGateway,
    ConflictError,
    ForbiddenError,
    InvalidError,
    JobKey,
    NotFoundError,
    Raw,
    UnavailableError,
)
from finetune_operator.cluster.views import as_dict, as_list, as_text, controller_uid, is_deleting, metadata
from finetune_operator.decide.holds import is_denied
from finetune_operator.decide.plan import Action, CreateChild, DeleteChild, Event, Observed, Plan, SetChildTTL

__all__ = ["Applied", "Applier", "event_manifest"]

log = logging.getLogger(__name__)

FINISHED_PHASES: Final = ("Succeeded", "Failed")
MAX_EVENT_MESSAGE: Final = 1024
"""Bytes that the API server accepts in an Event's message."""

_NO_RIGHT: Final = re.compile(r'User "[^"]*" cannot create resource "jobs"')
_NAMESPACE_GOING: Final = "because it is being terminated"


@dataclass(frozen=True, kw_only=True, slots=True)
class Applied:
    """What became of a plan.

    Attributes
    ----------
    job
        The FineTuneJob as stored after the status write.
    wrote_status
        Whether the status had to be written.
    blocked
        Why the guard held a create back; the job is to be observed anew. The remaining actions were not carried out.
    create_error
        Why the API server did not create a child (quota, admission, a webhook that is down).
    unavailable
        Seconds that the control plane asks to wait, where it is what failed (0 if it asks for none); else None.
    """

    job: Raw
    wrote_status: bool = False
    blocked: str | None = None
    create_error: str | None = None
    unavailable: float | None = None


@dataclass(frozen=True, slots=True)
class _Held:
    """A create that did not happen: held back by the guard, or refused by the API server."""

    blocked: str | None = None
    refused: str | None = None
    unavailable: float | None = None

    @property
    def back(self) -> bool:
        """Whether something was held back."""
        return self.blocked is not None or self.refused is not None


class Applier:
    """Turns plans into requests."""

    def __init__(self, gateway: ClusterGateway, cache: Cache, *, now: Callable[[], datetime]) -> None:
        self._gateway = gateway
        self._cache = cache
        self._now = now

    async def apply(self, key: JobKey, observed: Observed, plan: Plan) -> Applied:
        """Carry out a plan that was made from ``observed``.

        Raises
        ------
        ConflictError
            The job has changed since it was observed; nothing was done.
        ClusterError
            A request failed; what was done before it stays done.
        """
        job, wrote = observed.job, False
        if plan.status is not None:
            patch = merge_patch(as_dict(job.get("status")), plan.status)
            if patch:
                version = as_text(metadata(job).get("resourceVersion")) or ""
                job = await self._gateway.patch_job_status(key, resource_version=version, patch=patch)
                self._cache.put("jobs", job)
                wrote = True
        held = _Held()
        try:
            for action in plan.actions:
                held = await self._act(key, job, action, wrote=wrote) or held
                if held.back:
                    break
        finally:
            # Events tell of the status that was just written: neither a create that has to wait holds them back, nor an
            # action that fails.
            for event in plan.events:
                await self._record(key, job, event)
        return Applied(
            job=job,
            wrote_status=wrote,
            blocked=held.blocked,
            create_error=held.refused,
            unavailable=held.unavailable,
        )

    # --- actions ------------------------------------------------------------------------------------------------------

    async def _act(self, key: JobKey, job: Raw, action: Action, *, wrote: bool) -> _Held | None:
        if isinstance(action, CreateChild):
            return await self._create(key, job, action, guarded=not (action.first and wrote))
        try:
            if isinstance(action, DeleteChild):
                await self._gateway.delete_child(key.namespace, action.name, uid=action.uid)
                _note(key, "ChildDeleted", "Deleted a child Job", child=action.name)
            else:
                field = "ttlSecondsAfterFinished" if isinstance(action, SetChildTTL) else "activeDeadlineSeconds"
                child = await self._gateway.patch_child(
                    key.namespace, action.name, uid=action.uid, patch={"spec": {field: action.seconds}}
                )
                self._cache.put("children", child)
        except (NotFoundError, ConflictError):
            # It is gone, or another one stands under its name: either way this one needs nothing more.
            log.debug("The child Job %s is gone already", action.name, extra={"job": str(key)})
        return None

    async def _create(self, key: JobKey, job: Raw, action: CreateChild, *, guarded: bool) -> _Held | None:
        name = as_text(metadata(action.manifest).get("name")) or ""
        if guarded and (blocked := await self._what_blocks(key, job, name)) is not None:
            return _Held(blocked=blocked)
        try:
            child = await self._gateway.create_child(key.namespace, action.manifest)
        except AlreadyExistsError:
            return _Held(blocked=await self._stands_there(key, job, name) or f"{name} came and went")
        except ClusterError as error:
            return _refusal(error)
        self._cache.put("children", child)
        _note(key, "ChildCreated", "Created a child Job", child=name, stage=action.stage)
        return None

    # --- the guard ----------------------------------------------------------------------------------------------------

    async def _what_blocks(self, key: JobKey, job: Raw, name: str) -> str | None:
        return (
            await self._job_has_changed(key, job)
            or await self._stands_there(key, job, name)
            or await self._still_running(key, job)
        )

    async def _job_has_changed(self, key: JobKey, job: Raw) -> str | None:
        try:
            live = await self._gateway.get_job(key)
        except NotFoundError:
            return "the FineTuneJob is gone"
        if _uid(live) != _uid(job):
            return "another FineTuneJob has taken the name"
        if is_deleting(live):
            return "the FineTuneJob is being deleted"
        if as_dict(live.get("status")) != as_dict(job.get("status")):
            return "the status has changed since the plan was made"
        if metadata(live).get("generation") != metadata(job).get("generation"):
            return "the spec has changed since the plan was made"
        return None

    async def _stands_there(self, key: JobKey, job: Raw, name: str) -> str | None:
        """Say what stands under a child's name; the next observation tells reconcile, which knows what to do."""
        try:
            child = await self._gateway.get_child(key.namespace, name)
        except NotFoundError:
            return None
        self._cache.put("children", child)
        if is_deleting(child):
            return f"{name} is still being deleted"
        if controller_uid(child) != _uid(job):
            return f"{name} belongs to someone else"
        return f"{name} is there already"

    async def _still_running(self, key: JobKey, job: Raw) -> str | None:
        for pod in await self._gateway.list_pods(key.namespace, job_uid=_uid(job)):
            if as_dict(pod.get("status")).get("phase") not in FINISHED_PHASES:
                return f"pod {metadata(pod).get('name')} has not ended"
        return None

    # --- Events -------------------------------------------------------------------------------------------------------

    async def _record(self, key: JobKey, job: Raw, event: Event) -> None:
        try:
            await self._gateway.create_event(key.namespace, event_manifest(key, job, event, now=self._now()))
        except AlreadyExistsError:
            log.debug("The Event %s is there already", event.reason, extra={"job": str(key)})
        except ClusterError as error:
            # An Event tells a person; the status has told it already.
            log.warning(
                "An Event could not be recorded: %s", error, extra={"event": "EventNotRecorded", "job": str(key)}
            )


def _refusal(error: ClusterError) -> _Held:
    """Tell who does not create a child, and why; raise what nobody has refused."""
    if is_denied(error.message):
        return _Held(refused=error.message)  # in a policy's own words, and with a code of its choice
    if isinstance(error, UnavailableError) and error.code not in (0, 401):  # of these the next request may tell more
        told = f"The API server answers {error.code}: {error.message}"
        return _Held(refused=told, unavailable=error.retry_after or 0.0)
    if not isinstance(error, InvalidError | ForbiddenError):
        raise error
    if isinstance(error, ForbiddenError) and _NO_RIGHT.search(error.message):
        raise error  # RBAC: the operator's own rights, nothing that the job's owner can mend
    if _NAMESPACE_GOING in error.message:
        return _Held(blocked="the namespace is being deleted")
    return _Held(refused=error.message)


def event_manifest(key: JobKey, job: Raw, event: Event, *, now: datetime) -> Raw:
    """Build a core/v1 Event; its name follows from its content, so that a retry does not record it twice.

    The same said about another generation, or about other children, is another Event: a job may be suspended twice,
    and lose two children.
    """
    uid, generation = _uid(job), str(metadata(job).get("generation"))
    stages = map(as_dict, as_list(as_dict(job.get("status")).get("stages")))
    children = [as_text(stage.get("jobUid")) or "" for stage in stages]
    content = "\0".join((uid, generation, *children, event.type, event.reason, event.message))
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{key.name}.{digest}", "namespace": key.namespace},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": JOB_KIND,
            "namespace": key.namespace,
            "name": key.name,
            "uid": uid,
            "resourceVersion": as_text(metadata(job).get("resourceVersion")) or "",
        },
        "type": event.type,
        "reason": event.reason,
        "message": event.message.encode()[:MAX_EVENT_MESSAGE].decode(errors="ignore"),
        "source": {"component": MANAGED_BY},
        "reportingComponent": MANAGED_BY,
        "reportingInstance": MANAGED_BY,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }


def _uid(raw: Raw) -> str:
    return as_text(metadata(raw).get("uid")) or ""


def _note(key: JobKey, event: str, message: str, **fields: str) -> None:
    log.info(message, extra={"event": event, "job": str(key), "fields": fields})
