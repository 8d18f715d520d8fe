"""The only file that talks to the API server: ``ClusterGateway`` over ``kubernetes.aio``, plain dicts in and out.

The client library does connections, TLS and credentials (in-cluster token with refresh, or a kubeconfig); its models
are left aside, because they cost several times the CPU of a dict and drop fields they don't know.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final

import aiohttp
from kubernetes.aio import config as kubeconfig
from kubernetes.aio.client import ApiClient, Configuration

from finetune_api import API_VERSION, JOB_PLURAL, RUNTIME_PLURAL
from finetune_api.names import LABEL_JOB_UID, MANAGED_BY
from finetune_operator.cluster.protocol import (
    AlreadyExistsError,
    ClusterError,
    ConflictError,
    FencedError,
    ForbiddenError,
    InvalidError,
    JobKey,
    Kind,
    NotFoundError,
    Page,
    Raw,
    UnavailableError,
)

__all__ = ["KubernetesGateway", "error_of", "load_configuration"]

CONNECTIONS: Final = 32
PAGE: Final = 500
"""Objects in one part of a long list."""
TIMEOUT: Final = aiohttp.ClientTimeout(total=30, sock_connect=5)
LIST_TIMEOUT: Final = aiohttp.ClientTimeout(total=60, sock_connect=5)
SAME_CLOCK: Final = timedelta(seconds=3)
MERGE: Final = "application/merge-patch+json"
APPLY: Final = "application/apply-patch+yaml"
"""Server-side apply; JSON is YAML."""
UNAVAILABLE: Final = frozenset({401, 408, 410, 429})

GROUP_PATH: Final = f"/apis/{API_VERSION}"
KUEUE_PATH: Final = "/apis/kueue.x-k8s.io"
LIST_PATHS: Final[Mapping[Kind, tuple[str, str, str | None]]] = {
    "jobs": (f"{GROUP_PATH}/{JOB_PLURAL}", JOB_PLURAL, None),
    "runtimes": (f"{GROUP_PATH}/{RUNTIME_PLURAL}", RUNTIME_PLURAL, None),
    "children": ("/apis/batch/v1/jobs", "jobs", LABEL_JOB_UID),
    "pods": ("/api/v1/pods", "pods", LABEL_JOB_UID),
}

OnRequest = Callable[[str, str, int], None]


async def load_configuration() -> Configuration:
    """Return how to reach the API server: the pod's service account, else the kubeconfig.

    Raises
    ------
    kubernetes.aio.config.ConfigException
        There is neither.
    """
    configuration = Configuration()
    try:
        kubeconfig.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]  # left untyped
    except kubeconfig.ConfigException:
        await kubeconfig.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]  # left untyped
    configuration.connection_pool_maxsize = CONNECTIONS
    # As Kopf's own client: an egress proxy of the environment is not the way to the API server.
    configuration.client_session_kwargs = {"trust_env": False}
    return configuration


class KubernetesGateway:
    """``ClusterGateway`` for a real API server.

    Parameters
    ----------
    configuration
        From :func:`load_configuration`.
    on_request
        Called with verb, resource and status code (0: no answer) of every request.

    Attributes
    ----------
    may_write
        Asked before every write but those of the Lease that the answer depends on.
    """

    def __init__(self, configuration: Configuration, *, on_request: OnRequest = lambda _verb, _resource, _code: None):
        self._client = ApiClient(configuration)
        self._on_request = on_request
        self.may_write: Callable[[], bool] = lambda: True
        self._ahead = timedelta(0)

    def now(self) -> datetime:
        """Return the API server's time, by which all that stands in the cluster was stamped."""
        return datetime.now(UTC) + self._ahead

    def _read_clock(self, date: str | None) -> None:
        """Take the server's time from an answer; differences that whole seconds or the way explain count as none."""
        try:
            server = parsedate_to_datetime(date or "")
        except (TypeError, ValueError):
            return
        ahead = server.astimezone(UTC) - datetime.now(UTC)
        self._ahead = ahead if abs(ahead) > SAME_CLOCK else timedelta(0)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()  # type: ignore[no-untyped-call]  # left untyped

    # --- reads --------------------------------------------------------------------------------------------------------

    async def get_job(self, key: JobKey) -> Raw:
        """See :class:`ClusterGateway`."""
        return await self._request("get", "GET", _job_path(key), JOB_PLURAL)

    async def get_runtime(self, name: str) -> Raw:
        """See :class:`ClusterGateway`."""
        return await self._request("get", "GET", _runtime_path(name), RUNTIME_PLURAL)

    async def get_child(self, namespace: str, name: str) -> Raw:
        """See :class:`ClusterGateway`."""
        return await self._request("get", "GET", _child_path(namespace, name), "jobs")

    async def list_pods(self, namespace: str, *, job_uid: str) -> list[Raw]:
        """See :class:`ClusterGateway`."""
        query = {"labelSelector": f"{LABEL_JOB_UID}={job_uid}"}
        return await self._list(f"/api/v1/namespaces/{namespace}/pods", "pods", query)

    async def list_events(self, namespace: str, *, object_uid: str) -> list[Raw]:
        """See :class:`ClusterGateway`."""
        query = {"fieldSelector": f"involvedObject.uid={object_uid}"}
        return await self._list(f"/api/v1/namespaces/{namespace}/events", "events", query)

    async def list_page(self, kind: Kind, after: str = "") -> Page:
        """See :class:`ClusterGateway`."""
        path, resource, selector = LIST_PATHS[kind]
        return await self._page(path, resource, {"labelSelector": selector} if selector else {}, after)

    async def kueue_version(self) -> str | None:
        """See :class:`ClusterGateway`."""
        try:
            found = await self._request("get", "GET", KUEUE_PATH, "discovery")
        except NotFoundError:
            return None
        preferred = found.get("preferredVersion")
        version = preferred.get("version") if isinstance(preferred, dict) else None
        return version if isinstance(version, str) else None

    async def list_workloads(self, version: str, namespace: str, *, child_uid: str) -> list[Raw]:
        """See :class:`ClusterGateway`."""
        path = f"{KUEUE_PATH}/{version}/namespaces/{namespace}/workloads"
        return await self._list(path, "workloads", {"labelSelector": f"kueue.x-k8s.io/job-uid={child_uid}"})

    async def get_workload_priority_class(self, version: str, name: str) -> Raw:
        """See :class:`ClusterGateway`."""
        path = f"{KUEUE_PATH}/{version}/workloadpriorityclasses/{name}"
        return await self._request("get", "GET", path, "workloadpriorityclasses")

    async def served_resources(self) -> frozenset[str]:
        """See :class:`ClusterGateway`."""
        try:
            found = await self._request("get", "GET", GROUP_PATH, "discovery")
        except NotFoundError:
            return frozenset()
        return frozenset(str(resource.get("name")) for resource in found.get("resources", []))

    # --- writes -------------------------------------------------------------------------------------------------------

    async def create_child(self, namespace: str, manifest: Raw) -> Raw:
        """See :class:`ClusterGateway`."""
        return await self._request("create", "POST", f"/apis/batch/v1/namespaces/{namespace}/jobs", "jobs", manifest)

    async def delete_child(self, namespace: str, name: str, *, uid: str) -> None:
        """See :class:`ClusterGateway`."""
        # Without a policy the API server orphans the pods of a batch/v1 Job, and they train on; in the foreground the
        # Job stays until they are gone, which is what the guard before the next create looks at.
        options = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
        await self._request("delete", "DELETE", _child_path(namespace, name), "jobs", options)

    async def patch_child(self, namespace: str, name: str, *, uid: str, patch: Raw) -> Raw:
        """See :class:`ClusterGateway`."""
        body = {**patch, "metadata": {**patch.get("metadata", {}), "uid": uid}}
        try:
            return await self._request("patch", "PATCH", _child_path(namespace, name), "jobs", body)
        except InvalidError as error:
            # A patch has no preconditions of its own; the wrong uid is refused as an edit of an immutable field.
            if "metadata.uid: Invalid value" not in error.message:
                raise
            raise ConflictError(f"{name} is not {uid}", request="patch jobs", code=409) from error

    async def patch_job_status(self, key: JobKey, *, resource_version: str, patch: Raw) -> Raw:
        """See :class:`ClusterGateway`."""
        body = {"metadata": {"resourceVersion": resource_version}, "status": patch}
        return await self._request("patch", "PATCH", f"{_job_path(key)}/status", f"{JOB_PLURAL}/status", body)

    async def apply_runtime(self, name: str, manifest: Raw) -> None:
        """See :class:`ClusterGateway`."""
        await self._request("patch", "PATCH", _runtime_path(name), RUNTIME_PLURAL, manifest, patch_type=APPLY)

    async def patch_runtime(self, name: str, *, resource_version: str, patch: Raw) -> None:
        """See :class:`ClusterGateway`."""
        body = {**patch, "metadata": {**patch.get("metadata", {}), "resourceVersion": resource_version}}
        await self._request("patch", "PATCH", _runtime_path(name), RUNTIME_PLURAL, body)

    async def patch_secret(self, namespace: str, name: str, patch: Raw) -> Raw:
        """See :class:`ClusterGateway`."""
        return await self._request("patch", "PATCH", f"/api/v1/namespaces/{namespace}/secrets/{name}", "secrets", patch)

    async def review_token(self, token: str, *, audience: str) -> Raw:
        """See :class:`ClusterGateway`."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        answer = await self._request(
            "create", "POST", "/apis/authentication.k8s.io/v1/tokenreviews", "tokenreviews", body
        )
        status = answer.get("status")
        return status if isinstance(status, dict) else {}

    async def create_event(self, namespace: str, event: Raw) -> None:
        """See :class:`ClusterGateway`."""
        await self._request("create", "POST", f"/api/v1/namespaces/{namespace}/events", "events", event)

    # --- the leader's Lease -------------------------------------------------------------------------------------------

    async def get_lease(self, namespace: str, name: str) -> Raw:
        """Return a Lease."""
        return await self._request("get", "GET", _lease_path(namespace, name), "leases")

    async def put_lease(self, namespace: str, name: str, *, resource_version: str, spec: Raw) -> Raw:
        """Write a Lease if it still has this version, or create it where that is empty; anything else: a conflict.

        Leases may be created by PUT, which the right to create one single name covers; a POST has no name to check.
        """
        meta = {"name": name, "namespace": namespace, "labels": {"app.kubernetes.io/managed-by": MANAGED_BY}}
        if resource_version:
            meta["resourceVersion"] = resource_version
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}
        try:
            return await self._request("update", "PUT", _lease_path(namespace, name), "leases", body, fenced=False)
        except InvalidError as error:
            if resource_version or "metadata.resourceVersion" not in error.message:
                raise
            raise ConflictError(f"{name} has come meanwhile", request="update leases", code=409) from error

    # --- HTTP ---------------------------------------------------------------------------------------------------------

    async def _list(self, path: str, resource: str, query: Mapping[str, str]) -> list[Raw]:
        items, token = await self._page(path, resource, query, "")
        while token:
            more, token = await self._page(path, resource, query, token)
            items += more
        return items

    async def _page(self, path: str, resource: str, query: Mapping[str, str], after: str) -> Page:
        part = {**query, "limit": str(PAGE), **({"continue": after} if after else {})}
        answer = await self._request("list", "GET", path, resource, query=part, within=LIST_TIMEOUT)
        return Page(answer.get("items") or [], answer.get("metadata", {}).get("continue") or "")

    async def _request(
        self,
        verb: str,
        method: str,
        path: str,
        resource: str,
        body: Raw | None = None,
        *,
        query: Mapping[str, str] | None = None,
        within: aiohttp.ClientTimeout = TIMEOUT,
        patch_type: str = MERGE,
        fenced: bool = True,
    ) -> Raw:
        request = f"{verb} {resource}"
        content_type = patch_type if method == "PATCH" else "application/json"
        parameters = dict(query or {}) | ({"fieldManager": MANAGED_BY} if method in ("POST", "PATCH", "PUT") else {})
        method, url, headers, payload, _ = await self._client.param_serialize(
            method,
            path,
            query_params=list(parameters.items()),
            header_params={"Accept": "application/json", "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        if fenced and method != "GET" and not self.may_write():
            raise FencedError("not sent, because this operator does not lead now", request=request)
        try:
            response = await self._client.call_api(method, url, headers, payload, _request_timeout=within)
            data = await response.read()  # type: ignore[no-untyped-call]  # left untyped
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._on_request(verb, resource, 0)
            raise UnavailableError(f"no answer ({type(error).__name__}: {error})", request=request) from error
        self._on_request(verb, resource, response.status)
        self._read_clock(response.headers.get("Date"))
        document = _parsed(data)
        if response.status >= 300:
            raise error_of(response.status, document, verb=verb, resource=resource, headers=response.headers)
        if not isinstance(document, dict):
            raise UnavailableError("the answer is not a JSON object", request=request, code=response.status)
        return document


def error_of(
    status: int, document: Any, *, verb: str, resource: str, headers: Mapping[str, str] | None = None
) -> ClusterError:
    """Turn an answer that is no success into the error that says what follows from it."""
    answer = document if isinstance(document, dict) else {}
    reason = str(answer.get("reason") or "")
    message = str(answer.get("message") or f"HTTP {status}")
    kind: type[ClusterError]
    if status == 404:
        kind = NotFoundError
    elif status == 409:
        kind = AlreadyExistsError if reason == "AlreadyExists" else ConflictError
    elif status == 403:
        kind = ForbiddenError
    elif status in (400, 422):
        kind = InvalidError
    elif status in UNAVAILABLE or status >= 500:
        kind = UnavailableError
    else:
        kind = ClusterError
    retry_after = _seconds((headers or {}).get("Retry-After"))
    return kind(message, request=f"{verb} {resource}", code=status, reason=reason, retry_after=retry_after)


def _seconds(value: str | None) -> float | None:
    return float(value) if value is not None and value.isdecimal() else None


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


def _job_path(key: JobKey) -> str:
    return f"{GROUP_PATH}/namespaces/{key.namespace}/{JOB_PLURAL}/{key.name}"


def _runtime_path(name: str) -> str:
    return f"{GROUP_PATH}/{RUNTIME_PLURAL}/{name}"


def _lease_path(namespace: str, name: str) -> str:
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}"


def _child_path(namespace: str, name: str) -> str:
    return f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}"
