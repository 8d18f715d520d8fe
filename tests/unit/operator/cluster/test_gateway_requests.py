"""What the gateway sends: the parts of a request whose lack no cluster in memory and no quiet cluster would show."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client import Configuration

from finetune_operator.cluster.gateway import KubernetesGateway
from finetune_operator.cluster.protocol import FencedError, JobKey

KEY = JobKey("team-a", "support-intent")


@dataclass(frozen=True)
class Sent:
    method: str
    path: str
    query: dict[str, str]
    content_type: str
    body: Any


async def sent(call: Callable[[KubernetesGateway], Awaitable[Any]]) -> Sent:
    """The one request that a call of the gateway makes."""
    seen: list[Sent] = []

    async def answer(request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else None
        seen.append(Sent(request.method, request.path, dict(request.query), request.content_type, body))
        return web.json_response({})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server:
        configuration = Configuration()
        configuration.host = str(server.make_url("")).rstrip("/")
        gateway = KubernetesGateway(configuration)
        try:
            await call(gateway)
        finally:
            await gateway.close()
    (one,) = seen
    return one


async def test_a_child_is_deleted_in_the_foreground_and_only_if_it_is_that_one() -> None:
    request = await sent(lambda g: g.delete_child("team-a", "child", uid="u"))
    assert (request.method, request.path) == ("DELETE", "/apis/batch/v1/namespaces/team-a/jobs/child")
    assert request.body == {"propagationPolicy": "Foreground", "preconditions": {"uid": "u"}}


async def test_a_status_is_written_on_the_version_that_was_read_and_on_no_other() -> None:
    request = await sent(lambda g: g.patch_job_status(KEY, resource_version="41", patch={"phase": "Pending"}))
    assert request.path.endswith("/namespaces/team-a/finetunejobs/support-intent/status")
    assert request.body == {"metadata": {"resourceVersion": "41"}, "status": {"phase": "Pending"}}
    assert request.content_type == "application/merge-patch+json"
    assert request.query == {"fieldManager": "finetune-operator"}


async def test_a_child_is_patched_only_if_it_is_that_one() -> None:
    request = await sent(lambda g: g.patch_child("team-a", "child", uid="u", patch={"spec": {"suspend": True}}))
    assert request.body == {"spec": {"suspend": True}, "metadata": {"uid": "u"}}


async def test_a_runtime_is_patched_on_the_version_that_was_read_and_on_no_other() -> None:
    request = await sent(lambda g: g.patch_runtime("default", resource_version="41", patch={"spec": {"image": "x"}}))
    assert request.body == {"spec": {"image": "x"}, "metadata": {"resourceVersion": "41"}}
    assert request.content_type == "application/merge-patch+json"


async def test_the_workloads_of_a_child_are_listed_by_its_uid_in_the_version_that_is_served() -> None:
    request = await sent(lambda g: g.list_workloads("v1beta2", "team-a", child_uid="u"))
    assert (request.method, request.path) == ("GET", "/apis/kueue.x-k8s.io/v1beta2/namespaces/team-a/workloads")
    assert request.query == {"labelSelector": "kueue.x-k8s.io/job-uid=u", "limit": "500"}


async def test_a_priority_class_of_kueue_is_read_by_name() -> None:
    request = await sent(lambda g: g.get_workload_priority_class("v1beta2", "low"))
    assert (request.method, request.path) == ("GET", "/apis/kueue.x-k8s.io/v1beta2/workloadpriorityclasses/low")


async def test_a_runtime_is_created_by_server_side_apply_which_takes_nothing_over() -> None:
    request = await sent(lambda g: g.apply_runtime("default", {"spec": {"image": "x"}}))
    assert (request.method, request.path) == ("PATCH", "/apis/finetune.dev/v1alpha1/finetuneruntimes/default")
    assert request.content_type == "application/apply-patch+yaml"
    assert request.query == {"fieldManager": "finetune-operator"}
    assert request.body == {"spec": {"image": "x"}}


# --- who does not lead ------------------------------------------------------------------------------------------------

WRITES: dict[str, Callable[[KubernetesGateway], Awaitable[Any]]] = {
    "create_child": lambda g: g.create_child("team-a", {}),
    "delete_child": lambda g: g.delete_child("team-a", "child", uid="u"),
    "patch_child": lambda g: g.patch_child("team-a", "child", uid="u", patch={}),
    "patch_job_status": lambda g: g.patch_job_status(KEY, resource_version="41", patch={}),
    "apply_runtime": lambda g: g.apply_runtime("default", {}),
    "patch_runtime": lambda g: g.patch_runtime("default", resource_version="41", patch={}),
    "patch_secret": lambda g: g.patch_secret("system", "authority", {}),
    "review_token": lambda g: g.review_token("t", audience="a"),
    "create_event": lambda g: g.create_event("team-a", {}),
}
NO_WRITES = {
    "close",
    "get_child",
    "get_job",
    "get_lease",
    "get_runtime",
    "get_workload_priority_class",
    "kueue_version",
    "list_events",
    "list_page",
    "list_pods",
    "list_workloads",
    "now",
    "put_lease",
    "served_resources",
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
async def test_who_does_not_lead_sends_no_write(write: Callable[[KubernetesGateway], Awaitable[Any]]) -> None:
    async def fenced(gateway: KubernetesGateway) -> None:
        gateway.may_write = lambda: False
        with pytest.raises(FencedError, match="does not lead"):
            await write(gateway)
        gateway.may_write = lambda: True
        await write(gateway)

    await sent(fenced)  # one request alone: the second


def test_every_request_of_the_gateway_is_known_as_one_or_the_other() -> None:
    methods = {name for name in vars(KubernetesGateway) if not name.startswith("_")}
    assert methods == WRITES.keys() | NO_WRITES


async def test_who_does_not_lead_may_still_write_the_lease() -> None:
    async def fenced(gateway: KubernetesGateway) -> None:
        gateway.may_write = lambda: False
        await gateway.put_lease("system", "operator", resource_version="41", spec={"holderIdentity": "me"})

    request = await sent(fenced)
    assert (request.method, request.path) == ("PUT", "/apis/coordination.k8s.io/v1/namespaces/system/leases/operator")
    assert request.body["metadata"]["resourceVersion"] == "41"
    assert request.body["spec"] == {"holderIdentity": "me"}


async def test_a_lease_that_is_not_there_is_created_without_a_version() -> None:
    request = await sent(lambda g: g.put_lease("system", "operator", resource_version="", spec={}))
    assert "resourceVersion" not in request.body["metadata"]
