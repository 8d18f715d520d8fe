"""What the operator needs of a Kubernetes cluster: a narrow Protocol, its errors and the key of a job.

Stands between the code that decides and acts (``observe``, ``apply``, ``resync``) and the one file that talks to the
API server (``gateway.py``). Objects are plain dicts as the API server gives them. Tests put an in-memory cluster here.
In this package *job* is a FineTuneJob and *child* is a batch/v1 Job that the operator made for it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, NamedTuple, Protocol

__all__ = [
    "AlreadyExistsError",
    "ClusterError",
    "ClusterGateway",
    "ConflictError",
    "FencedError",
    "ForbiddenError",
    "InvalidError",
    "JobKey",
    "Kind",
    "NotFoundError",
    "Page",
    "Raw",
    "UnavailableError",
]

Raw = dict[str, Any]
"""An object as the API server gives it, parsed from JSON."""

Kind = Literal["jobs", "runtimes", "children", "pods"]
"""What is watched: FineTuneJobs, FineTuneRuntimes, and the Jobs and pods that carry our label."""


class JobKey(NamedTuple):
    """Names one FineTuneJob."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Page(NamedTuple):
    """A part of a list, and the token of the next part; empty after the last."""

    items: list[Raw]
    following: str = ""


class ClusterError(Exception):
    """The API server refused a request or could not be reached.

    Attributes
    ----------
    message
        What the API server said, without the request that ``str`` puts before it.
    code
        HTTP status; 0 when there was no answer.
    reason
        ``reason`` of the metav1.Status, for example ``AlreadyExists``.
    retry_after
        Seconds that the server asked to wait, if it did.
    """

    def __init__(
        self,
        message: str,
        *,
        request: str = "",
        code: int = 0,
        reason: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{request}: {message}" if request else message)
        self.message = message
        self.code = code
        self.reason = reason
        self.retry_after = retry_after


class NotFoundError(ClusterError):
    """404: there is no such object, or its kind is not served."""


class ConflictError(ClusterError):
    """409: the object has changed (resourceVersion) or is another one (uid) than the request says."""


class AlreadyExistsError(ConflictError):
    """409 on create: an object of this name stands there."""


class ForbiddenError(ClusterError):
    """403: RBAC, an admission plugin, a full quota or a namespace that is going."""


class InvalidError(ClusterError):
    """400 or 422: the API server does not accept the object."""


class UnavailableError(ClusterError):
    """No answer, 401, 410, 429 or 5xx: the same request may well succeed later."""


class FencedError(UnavailableError):
    """A write that was not sent, because this process does not lead, or can't know whether it still does."""


class ClusterGateway(Protocol):
    """Every request that the operator makes. All methods raise a :class:`ClusterError` when they fail."""

    def now(self) -> datetime:
        """Return the API server's time, aware."""
        ...

    async def get_job(self, key: JobKey) -> Raw:
        """Return the FineTuneJob as it stands now, not from a cache."""
        ...

    async def get_runtime(self, name: str) -> Raw:
        """Return a FineTuneRuntime."""
        ...

    async def get_child(self, namespace: str, name: str) -> Raw:
        """Return the batch/v1 Job of this name, whoever made it."""
        ...

    async def list_pods(self, namespace: str, *, job_uid: str) -> list[Raw]:
        """Return the pods of a namespace that are labelled with the uid of a FineTuneJob."""
        ...

    async def list_events(self, namespace: str, *, object_uid: str) -> list[Raw]:
        """Return the core/v1 Events about one object."""
        ...

    async def list_page(self, kind: Kind, after: str = "") -> Page:
        """Return the next part of all objects of a kind in all namespaces, so that the whole is never held at once.

        Children and pods only where they carry our label. ``after`` is the ``following`` of the part before. A list
        that takes so long that the server has compacted its version ends with a 410, which is unavailable.
        """
        ...

    async def kueue_version(self) -> str | None:
        """Return the version of Kueue's API that the API server prefers; None where Kueue is not installed."""
        ...

    async def list_workloads(self, version: str, namespace: str, *, child_uid: str) -> list[Raw]:
        """Return the Workloads that Kueue keeps of a batch/v1 Job."""
        ...

    async def get_workload_priority_class(self, version: str, name: str) -> Raw:
        """Return a WorkloadPriorityClass of Kueue."""
        ...

    async def served_resources(self) -> frozenset[str]:
        """Return the plural names that the API server serves in our group and version; empty if it knows none."""
        ...

    async def create_child(self, namespace: str, manifest: Raw) -> Raw:
        """Create a batch/v1 Job and return it as stored."""
        ...

    async def delete_child(self, namespace: str, name: str, *, uid: str) -> None:
        """Delete the Job that has this uid, with its pods (``propagationPolicy: Foreground``)."""
        ...

    async def patch_child(self, namespace: str, name: str, *, uid: str, patch: Raw) -> Raw:
        """Merge-patch the Job that has this uid."""
        ...

    async def patch_job_status(self, key: JobKey, *, resource_version: str, patch: Raw) -> Raw:
        """Merge-patch ``.status`` if the job still has this resourceVersion, and return the job as stored."""
        ...

    async def apply_runtime(self, name: str, manifest: Raw) -> None:
        """Create a FineTuneRuntime by server-side apply; fields that somebody else has set meanwhile are a conflict."""
        ...

    async def patch_runtime(self, name: str, *, resource_version: str, patch: Raw) -> None:
        """Merge-patch a FineTuneRuntime if it still has this resourceVersion."""
        ...

    async def patch_secret(self, namespace: str, name: str, patch: Raw) -> Raw:
        """Merge-patch a Secret and return it as stored; a resourceVersion in the patch that is old is a conflict."""
        ...

    async def review_token(self, token: str, *, audience: str) -> Raw:
        """Return ``status`` of a TokenReview: whether the token is good for this audience, and whose it is."""
        ...

    async def create_event(self, namespace: str, event: Raw) -> None:
        """Create a core/v1 Event."""
        ...
