"""The endpoint for live reports, over TLS on a port of this machine: whom it believes, and what it bounds."""

from __future__ import annotations

import asyncio
import gc
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from finetune_api.live import MAX_LIVE_BYTES
from finetune_operator.cluster.protocol import JobKey, UnavailableError
from finetune_operator.process import progress
from finetune_operator.process.listener import Bounds
from tests.support.live_kit import REPORT, Bench, Pod, client_context, review_of, token_of
from tests.support.memory_gateway import FaultyGateway, MemoryGateway

POD = Pod()
OTHER = Pod(
    job="other",
    namespace="team-b",
    job_uid="11111111-0000-4000-8000-000000000001",
    uid="22222222-0000-4000-8000-000000000001",
    child_uid="33333333-0000-4000-8000-000000000001",
    name="other-11111111-train-abcde",
)
KEY = JobKey(POD.namespace, POD.job)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with Bench().serving() as ready:
        yield ready


# --- whom it believes -------------------------------------------------------------------------------------------------


async def test_a_report_is_kept_for_the_pods_job_and_the_job_is_looked_at(bench: Bench) -> None:
    status, answer = await bench.post(bench.add(POD))
    assert (status, answer) == (200, {"nextSeconds": 10})
    assert bench.woken == [(KEY, 0.0)]
    shown = bench.book.shown(POD.job_uid)
    assert shown is not None
    assert (shown.pod_uid, shown.report.percent) == (POD.uid, 10)


async def test_a_token_speaks_for_its_own_job_whatever_the_body_says(bench: Bench) -> None:
    bench.add(POD)
    token = bench.add(OTHER)
    assert (await bench.post(token, {**REPORT, "jobUid": POD.job_uid, "namespace": POD.namespace}))[0] == 200
    assert bench.book.shown(POD.job_uid) is None
    assert bench.woken == [(JobKey("team-b", "other"), 0.0)]


@pytest.mark.parametrize("token", [None, "", "x", "a.b.c", "e30.e30.e30", "." * 3000, "a" * 8000])
async def test_nonsense_is_refused_without_a_question_to_the_api_server(bench: Bench, token: str | None) -> None:
    bench.add(POD)
    assert (await bench.post(token))[0] in (400, 401)
    assert bench.cluster.reviewed == []


async def test_a_token_for_another_audience_is_refused(bench: Bench) -> None:
    bench.add(POD)
    assert (await bench.post(token_of(POD, "https://kubernetes.default.svc")))[0] == 401
    assert bench.cluster.reviewed == []


async def test_a_token_that_the_api_server_does_not_vouch_for_is_refused(bench: Bench) -> None:
    bench.add(POD)
    status, answer = await bench.post(token_of(POD, salt="forged"))
    assert (status, answer["message"]) == (401, "the API server does not vouch for the token")
    assert bench.woken == []


@pytest.mark.parametrize(
    "change",
    [
        {"audiences": []},
        {"audiences": ["https://kubernetes.default.svc"]},
        {"audiences": None},
        {"authenticated": False},
        {"authenticated": "yes"},
        {"user": {"username": "admin", "extra": review_of(POD)["user"]["extra"]}},
        {"user": {"username": "system:serviceaccount:team-a:default"}},
    ],
    ids=str,
)
async def test_a_review_that_does_not_name_audience_and_pod_is_no_yes(bench: Bench, change: dict[str, Any]) -> None:
    token = bench.add(POD)
    bench.cluster.tokens[token] = {**review_of(POD), **change}
    assert (await bench.post(token))[0] == 401


async def test_what_the_token_claims_counts_for_nothing_beside_the_review(bench: Bench) -> None:
    token = bench.add(POD)
    bench.add(OTHER)
    bench.cluster.tokens[token] = review_of(OTHER)
    assert (await bench.post(token))[0] == 200
    assert bench.book.shown(POD.job_uid) is None
    assert bench.book.shown(OTHER.job_uid) is not None


async def test_the_token_of_a_deleted_pod_is_refused_though_the_api_server_still_takes_it(bench: Bench) -> None:
    token = bench.add(POD)
    assert (await bench.post(token))[0] == 200
    bench.cache.forget("pods", POD.namespace, POD.name)
    assert (await bench.post(token, {**REPORT, "sequence": 2}))[0] == 403


async def test_a_pod_of_the_same_name_is_another_pod(bench: Bench) -> None:
    token = bench.add(POD)
    bench.add(replace(POD, uid="44444444-0000-4000-8000-000000000001"), token="t")
    assert (await bench.post(token))[0] == 403


async def test_a_pod_that_only_carries_our_labels_is_refused(bench: Bench) -> None:
    token = bench.add(POD)
    bench.add(replace(POD, child_uid="55555555-0000-4000-8000-000000000001"), token="t")
    bench.add(POD)
    stranger = replace(POD, name="stranger", uid="66666666-0000-4000-8000-000000000001", child_uid="nobody")
    bench.cache.put(
        "pods",
        {
            "metadata": {
                "namespace": stranger.namespace,
                "name": stranger.name,
                "uid": stranger.uid,
                "creationTimestamp": "2026-03-01T00:00:00Z",
                "labels": {"finetune.dev/job-uid": POD.job_uid, "finetune.dev/job-name": POD.job},
            },
            "status": {"phase": "Running"},
        },
    )
    forged = token_of(stranger)
    bench.cluster.tokens[forged] = review_of(stranger)
    assert (await bench.post(forged))[0] == 403
    assert (await bench.post(token))[0] == 200


async def test_only_the_newest_pod_of_a_job_is_heard(bench: Bench) -> None:
    old = bench.add(POD)
    new = bench.add(
        replace(POD, name="support-intent-0d5ac3c4-train-zzzzz", uid="77777777-0000-4000-8000-000000000001"), created=60
    )
    assert (await bench.post(old))[0] == 410
    assert (await bench.post(new))[0] == 200


async def test_a_job_that_has_ended_is_gone_for_its_pods(bench: Bench) -> None:
    token = bench.add(POD, conditions=[{"type": "Succeeded", "status": "True"}])
    assert await bench.post(token) == (410, {"message": "the job has ended"})
    assert len(bench.book) == 0


# --- again and again --------------------------------------------------------------------------------------------------


async def test_a_report_that_is_sent_again_changes_nothing(bench: Bench) -> None:
    token = bench.add(POD)
    await bench.post(token, {**REPORT, "sequence": 5, "percent": 50})
    bench.woken.clear()
    assert (await bench.post(token, {**REPORT, "sequence": 5, "percent": 1}))[0] == 200
    assert (await bench.post(token, {**REPORT, "sequence": 4, "percent": 1}))[0] == 200
    shown = bench.book.shown(POD.job_uid)
    assert shown is not None
    assert shown.report.percent == 50
    assert bench.woken == []


async def test_a_verdict_holds_for_two_minutes(bench: Bench) -> None:
    token = bench.add(POD)
    for sequence in (1, 2, 3):
        await bench.post(token, {**REPORT, "sequence": sequence})
    assert bench.cluster.reviewed == [token]
    bench.seconds += 121
    await bench.post(token, {**REPORT, "sequence": 4})
    assert bench.cluster.reviewed == [token, token]


async def test_a_pod_may_report_once_a_second_and_a_few_times_at_once(bench: Bench) -> None:
    token = bench.add(POD)
    answers = [(await bench.post(token, {**REPORT, "sequence": n}))[0] for n in range(12)]
    assert answers[:5] == [200] * 5
    assert answers.count(429) >= 5
    bench.seconds += 60
    assert (await bench.post(token, {**REPORT, "sequence": 99}))[0] == 200


async def test_forged_tokens_of_one_pod_cost_few_questions(bench: Bench) -> None:
    bench.add(POD)
    answers = [(await bench.post(token_of(POD, salt=str(n))))[0] for n in range(30)]
    assert answers.count(429) > 20
    assert len(bench.cluster.reviewed) < 10


async def test_an_api_server_that_is_down_is_no_verdict() -> None:
    bench = Bench()
    bench.gateway = FaultyGateway(MemoryGateway(bench.cluster))
    bench.gateway.broken.add("review_token")
    async with bench.serving():
        token = bench.add(POD)
        assert (await bench.post(token))[0] == 503
        bench.gateway.broken.clear()
        assert (await bench.post(token))[0] == 200


# --- bounds -----------------------------------------------------------------------------------------------------------


async def test_a_mebibyte_is_refused_before_it_is_read(bench: Bench) -> None:
    token = bench.add(POD)
    reader, writer = await asyncio.open_connection("localhost", bench.port, ssl=client_context(bench.authority))
    head = f"POST /v1/progress HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: {2**20}\r\n\r\n"
    writer.write(head.encode())
    assert b" 413 " in await asyncio.wait_for(reader.readline(), 5)
    writer.close()


async def test_a_body_without_a_length_is_cut_off_at_the_bound(bench: Bench) -> None:
    token = bench.add(POD)
    reader, writer = await asyncio.open_connection("localhost", bench.port, ssl=client_context(bench.authority))
    head = (
        f"POST /v1/progress HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    writer.write(head.encode())
    chunk = b"x" * 4096
    for _ in range(4):
        writer.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
    assert b" 413 " in await asyncio.wait_for(reader.readline(), 5)
    assert len(chunk) * 4 > MAX_LIVE_BYTES
    writer.close()


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff" * 100, b'{"sequence": 1, "phase": "Succeeded"}'])
async def test_a_body_that_is_no_report_is_refused(bench: Bench, body: bytes) -> None:
    assert (await bench.post(bench.add(POD), body))[0] == 400
    assert len(bench.book) == 0


async def test_other_paths_are_not_found(bench: Bench) -> None:
    assert (await bench.post(bench.add(POD), path="/metrics"))[0] == 404


async def test_a_body_that_trickles_in_is_given_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "BODY_SECONDS", 0.2)
    token = bench.add(POD)
    reader, writer = await asyncio.open_connection("localhost", bench.port, ssl=client_context(bench.authority))
    head = f"POST /v1/progress HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 100\r\n\r\n{{"
    writer.write(head.encode())
    assert b" 408 " in await asyncio.wait_for(reader.readline(), 5)
    writer.close()


async def test_a_sender_that_goes_in_the_middle_of_its_report_is_no_error(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    token = bench.add(POD)
    _, writer = await open_raw(bench)
    head = f"POST /v1/progress HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 100\r\n\r\n{{"
    writer.write(head.encode())
    await writer.drain()
    while not bench.cluster.reviewed:  # noqa: ASYNC110 - nobody tells of it
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    writer.transport.abort()
    while not bench.answers:  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.01)
    assert bench.answers == [400]
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def open_raw(bench: Bench) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("localhost", bench.port, ssl=client_context(bench.authority))


async def open_silent(bench: Bench) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("localhost", bench.port)


@pytest.mark.parametrize(
    ("open_one", "first"),
    [(open_silent, b""), (open_raw, b""), (open_raw, b"POST /v1/pro")],
    ids=["before the handshake", "after it", "in the first line"],
)
async def test_a_connection_that_says_nothing_is_ended(
    open_one: Callable[[Bench], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]], first: bytes
) -> None:
    async with Bench(bounds=Bounds(handshake_seconds=0.3, seconds=0.3)).serving() as bench:
        reader, writer = await open_one(bench)
        writer.write(first)
        with suppress(ConnectionError, ssl.SSLError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


async def test_a_transport_that_has_forgotten_its_connection_is_left_at_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in Python 3.11.2, whose ``abort`` raises once a TLS transport was closed twice."""
    surprises: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: surprises.append(context))

    def abort(transport: Any) -> None:
        transport._ssl_protocol._abort(None)

    monkeypatch.setattr(asyncio.sslproto._SSLProtocolTransport, "abort", abort)
    async with Bench().serving() as bench:
        token = bench.add(POD)
        for _ in range(3):
            assert (await bench.post(token))[0] in (200, 429)
        await asyncio.sleep(0.2)
        gc.collect()
    assert surprises == []


async def test_slow_connections_leave_places_for_others() -> None:
    bounds = Bounds(connections=8, a_peer=6, handshake_seconds=0.5, seconds=0.5)
    async with Bench(bounds=bounds).serving() as bench:
        token = bench.add(POD)
        slow = [await open_silent(bench) for _ in range(30)]
        status, _ = await asyncio.wait_for(_until_answered(bench, token), 10)
        assert status == 200
        for _, writer in slow:
            writer.close()


async def test_one_address_takes_its_share_of_the_places_and_no_more() -> None:
    async with Bench(bounds=Bounds(connections=4, a_peer=2, handshake_seconds=30, seconds=30)).serving() as bench:
        slow = [await open_silent(bench) for _ in range(6)]
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection(
                "127.0.0.1",
                bench.port,
                local_addr=("127.0.0.2", 0),
                ssl=client_context(bench.authority),
                server_hostname="localhost",
            ),
            10,
        )
        writer.write(b"POST /v1/progress HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        assert b" 401 " in await asyncio.wait_for(reader.readline(), 5)
        for _, other in [*slow, (reader, writer)]:
            other.close()


async def _until_answered(bench: Bench, token: str) -> tuple[int, dict[str, Any]]:
    while True:
        try:
            return await bench.post(token)
        except OSError:
            await asyncio.sleep(0.1)


async def test_a_flood_leaves_the_loop_to_the_others() -> None:
    async with Bench().serving() as bench:
        token = bench.add(POD)
        bench.add(OTHER)
        late: list[float] = []
        loop = asyncio.get_running_loop()

        async def reconciles() -> None:
            for _ in range(100):
                begun = loop.time()
                await asyncio.sleep(0.005)
                late.append(loop.time() - begun - 0.005)

        async def floods(number: int) -> None:
            with suppress(OSError):
                await bench.post(token_of(OTHER, salt=str(number)))

        flood = [asyncio.create_task(floods(number)) for number in range(100)]
        await reconciles()
        await asyncio.gather(*flood)
        assert sorted(late)[len(late) // 2] < 0.2
        assert len(bench.cluster.reviewed) < 20
        assert (await bench.post(token))[0] == 200


async def test_a_review_that_hangs_holds_up_nobody_whose_verdict_is_known() -> None:
    bench = Bench()
    gate = asyncio.Event()

    class Slow(MemoryGateway):
        async def review_token(self, token: str, *, audience: str) -> dict[str, Any]:
            if token != known:
                await gate.wait()
                raise UnavailableError("no answer")
            return await super().review_token(token, audience=audience)

    known = token_of(POD)
    bench.gateway = Slow(bench.cluster)
    async with bench.serving():
        bench.add(POD)
        assert (await bench.post(known))[0] == 200
        pods = [
            replace(OTHER, job=f"o{n}", name=f"p{n}", uid=f"u{n}", job_uid=f"j{n}", child_uid=f"c{n}")
            for n in range(12)
        ]
        hanging = [asyncio.create_task(bench.post(bench.add(pod))) for pod in pods]
        await asyncio.sleep(0.3)
        assert (await bench.post(known, {**REPORT, "sequence": 2}))[0] == 200
        gate.set()
        assert {status for status, _ in await asyncio.gather(*hanging)} == {503}
