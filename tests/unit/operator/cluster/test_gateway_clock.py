"""The time by which the operator decides is the API server's, whatever its own machine's clock says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client import Configuration

from finetune_operator.cluster.gateway import KubernetesGateway
from finetune_operator.cluster.protocol import JobKey


async def seconds_ahead(*dates: str | None) -> float:
    """By how much the gateway's time is ahead of this machine's after answers with these dates."""
    left = list(dates)

    async def answer(_: web.Request) -> web.Response:
        date = left.pop(0)
        return web.json_response({}, headers={"Date": date} if date is not None else {})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with TestServer(app) as server:
        configuration = Configuration()
        configuration.host = str(server.make_url("")).rstrip("/")
        gateway = KubernetesGateway(configuration)
        try:
            for _ in dates:
                await gateway.get_job(JobKey("team-a", "support-intent"))
            return (gateway.now() - datetime.now(UTC)).total_seconds()
        finally:
            await gateway.close()


def date(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize("hours", [5, -5])
async def test_a_clock_that_is_hours_off_is_put_right(hours: int) -> None:
    assert await seconds_ahead(date(hours * 3600)) == pytest.approx(hours * 3600, abs=2)


async def test_the_newest_answer_counts() -> None:
    assert await seconds_ahead(date(7200), date(60)) == pytest.approx(60, abs=2)
    assert await seconds_ahead(date(7200), date(0)) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("text", ["yesterday", "", "Thu, 99 Foo 2026 00:00:00 GMT"])
async def test_an_answer_with_an_odd_date_changes_nothing(text: str) -> None:
    assert await seconds_ahead(date(7200), text) == pytest.approx(7200, abs=2)


async def test_a_difference_that_whole_seconds_explain_is_none() -> None:
    assert await seconds_ahead(date(1)) == pytest.approx(0, abs=0.1)
