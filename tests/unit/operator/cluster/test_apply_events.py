"""Recording Events: once each, whatever else fails, and in a form that the API server takes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from finetune_operator.cluster.apply import Applied, event_manifest
from finetune_operator.cluster.protocol import ForbiddenError, UnavailableError
from finetune_operator.decide.plan import Event, SetChildTTL
from tests.support.builders import T0, job
from tests.support.virtual_time import run_virtual
from tests.unit.operator.kit import KEY, Bench, child_manifest


def test_the_same_event_is_recorded_once_however_often_it_is_tried() -> None:
    async def scenario() -> list[Any]:
        bench = Bench.new()
        for _ in range(3):
            await bench.apply(events=(Event(reason="Started", message="x"),))
            await asyncio.sleep(5)
        await bench.apply(events=(Event(reason="Started", message="y"),))
        return bench.cluster.all("events")

    events = run_virtual(scenario())
    assert sorted(event["message"] for event in events) == ["x", "y"]


def test_the_same_event_about_another_generation_is_recorded_again() -> None:
    async def scenario() -> list[Any]:
        bench = Bench.new()
        for suspend in (True, True, False):
            bench.cluster.patch("jobs", *KEY, {"spec": {"suspend": suspend}})
            await bench.apply(events=(Event(reason="Suspended", message="x"),))
        return bench.cluster.all("events")

    assert len(run_virtual(scenario())) == 2


def test_the_same_event_about_another_child_is_recorded_again_and_a_retry_is_not() -> None:
    deleted = Event(reason="ChildDeleted", message="Job x was deleted while it ran; stage train starts anew.")

    async def scenario() -> list[Any]:
        bench = Bench.new()
        for child in ("one", "one", "two"):
            stages = [{"name": "train", "state": "Pending", "jobUid": child}]
            await bench.apply(status={"stages": stages}, events=(deleted,))
        return bench.cluster.all("events")

    assert len(run_virtual(scenario())) == 2


def test_an_event_is_not_lost_by_an_action_that_fails() -> None:
    async def scenario() -> list[Any]:
        bench = Bench.new()
        child = bench.cluster.create("children", child_manifest(bench.uid))["metadata"]
        bench.gateway.broken = {"patch_child"}
        with pytest.raises(UnavailableError):
            await bench.apply(
                SetChildTTL(name=child["name"], uid=child["uid"], seconds=5),
                events=(Event(reason="Succeeded", message="x"),),
            )
        return bench.cluster.all("events")

    assert [event["reason"] for event in run_virtual(scenario())] == ["Succeeded"]


def test_what_follows_a_create_that_is_held_back_is_not_done() -> None:
    async def scenario() -> tuple[Applied, int]:
        bench = Bench.new()
        bench.cluster.refusals = [ForbiddenError("exceeded quota: q", code=403)]
        child = bench.cluster.create("children", child_manifest(bench.uid, "prepare"))["metadata"]
        applied = await bench.apply(bench.create(), SetChildTTL(name=child["name"], uid=child["uid"], seconds=5))
        return applied, bench.gateway.calls["patch_child"]

    assert run_virtual(scenario())[1] == 0


def test_an_event_that_can_not_be_recorded_fails_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> Applied:
        bench = Bench.new()
        bench.gateway.broken = {"create_event"}
        return await bench.apply(status={"phase": "Pending"}, events=(Event(reason="Started", message="x"),))

    assert run_virtual(scenario()).wrote_status
    assert [r.event for r in caplog.records if r.levelname == "WARNING"] == ["EventNotRecorded"]


def test_an_event_fits_what_the_api_server_accepts() -> None:
    event = Event(reason="Failed", message="ä" * 2000, type="Warning")
    manifest = event_manifest(KEY, job(), event, now=T0)
    assert len(manifest["message"].encode()) <= 1024
    assert len(manifest["metadata"]["name"]) <= 253
    assert manifest["metadata"]["namespace"] == manifest["involvedObject"]["namespace"] == KEY.namespace
    assert (manifest["type"], manifest["firstTimestamp"]) == ("Warning", "2026-03-01T08:00:00Z")


def test_events_of_two_jobs_with_one_name_do_not_collide() -> None:
    event = Event(reason="Started", message="x")
    names = [event_manifest(KEY, job(uid=uid), event, now=T0)["metadata"]["name"] for uid in ("one", "two")]
    assert names[0] != names[1]
