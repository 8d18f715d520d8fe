"""Live reports on their way: the reporter against the operator's own endpoint, and against what goes wrong."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from finetune_api.live import LiveReport
from finetune_operator.process.certificates import new_authority
from finetune_operator.process.progress import PATH
from finetune_trainer.process.console import Console
from finetune_trainer.process.reporter import Pace, Reporter
from tests.support.live_kit import Bench, Pod

POD = Pod()
QUICK = Pace(least=0.02, usual=0.1, silence=5.0, after_failure=0.1, timeout=2.0, last=3.0)


class Operator:
    """The endpoint in a thread of its own, as another process would be."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.taken: list[LiveReport] = []
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with self.bench.serving():
            take = self.bench.book.take

            def taking(key: Any, uid: str, pod: str, report: LiveReport) -> float | None:
                self.taken.append(report)
                self.bench.seconds += 5  # so that no rate is in the way
                return take(key, uid, pod, report)

            self.bench.book.take = taking  # type: ignore[method-assign]
            self._ready.set()
            await self._stop.wait()

    def __enter__(self) -> Operator:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.bench.port}{PATH}"


@pytest.fixture
def operator() -> Iterator[Operator]:
    with Operator() as running:
        yield running


def mount(folder: Path, operator: Operator) -> Path:
    """As kubelet does."""
    folder.mkdir(exist_ok=True)
    (folder / "token").write_text(operator.bench.add(POD))
    (folder / "ca.crt").write_text(operator.bench.authority.pem)
    return folder


def console() -> Console:
    return Console(job="team-a/support-intent", stage="train", stream=StringIO(), interactive=False)


def log_of(shown: Console) -> list[dict[str, Any]]:
    stream = shown._stream
    assert isinstance(stream, StringIO)
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def eventually(met: Callable[[], object], within: float = 10.0) -> None:
    end = time.monotonic() + within
    while not met():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_phases_and_the_last_word_arrive(operator: Operator, tmp_path: Path) -> None:
    shown = console()
    with Reporter(operator.url, mount(tmp_path, operator), shown, pace=QUICK):
        shown.live.began("baseline")
        eventually(lambda: [r.phase for r in operator.taken] == ["Baseline"])
        shown.live.began("train")
        eventually(lambda: [r.phase for r in operator.taken] == ["Baseline", "Training"])
        shown.live.trained(step=99, total=100, epoch=1.0, loss=0.5, tokens_per_second=1.0)
    assert (operator.taken[-1].percent, operator.taken[-1].step) == (99, 99)
    assert [r.sequence for r in operator.taken] == list(range(1, len(operator.taken) + 1))


def test_the_operator_says_how_often_it_wants_to_hear(operator: Operator, tmp_path: Path) -> None:
    shown = console()
    with Reporter(operator.url, mount(tmp_path, operator), shown, pace=QUICK):
        shown.live.began("train")
        eventually(lambda: operator.taken)
        for step in range(5):
            shown.live.trained(step=step, total=100, epoch=1.0, loss=0.5, tokens_per_second=1.0)
            time.sleep(0.15)
        assert len(operator.taken) == 1  # the answer was 10 s


def test_the_token_is_read_anew_each_time(operator: Operator, tmp_path: Path) -> None:
    shown, folder = console(), mount(tmp_path, operator)
    good = (folder / "token").read_text()
    (folder / "token").write_text("expired")
    with Reporter(operator.url, folder, shown, pace=QUICK):
        shown.live.began("train")
        eventually(lambda: 401 in operator.bench.answers)
        (folder / "token").write_text(good)
        eventually(lambda: operator.taken)


def test_a_job_that_has_ended_is_reported_no_more(operator: Operator, tmp_path: Path) -> None:
    shown, folder = console(), mount(tmp_path, operator)
    operator.bench.add(POD, conditions=[{"type": "Succeeded", "status": "False"}])
    with Reporter(operator.url, folder, shown, pace=QUICK):
        shown.live.began("train")
        eventually(lambda: operator.bench.answers == [410])
        shown.live.began("test")
        time.sleep(0.5)
    assert operator.bench.answers == [410]


def test_an_operator_of_another_authority_gets_no_token(operator: Operator, tmp_path: Path) -> None:
    shown, folder = console(), mount(tmp_path, operator)
    now = operator.bench.authority.certificate.not_valid_before_utc
    (folder / "ca.crt").write_text(new_authority(now).pem)
    with Reporter(operator.url, folder, shown, pace=QUICK):
        shown.live.began("train")
        eventually(lambda: log_of(shown))
    assert operator.bench.answers == []
    assert operator.bench.cluster.reviewed == []


@pytest.mark.parametrize("url", ["https://localhost:1/v1/progress", "https://no-such-host.invalid/v1/progress", "x"])
def test_what_goes_wrong_is_logged_once_and_holds_nothing_up(url: str, tmp_path: Path, operator: Operator) -> None:
    shown, began = console(), time.monotonic()
    with Reporter(url, mount(tmp_path, operator), shown, pace=QUICK):
        for step in ("fetch_rows", "baseline", "train", "export", "test"):
            shown.live.began(step)
            time.sleep(0.1)
    assert time.monotonic() - began < 5
    (line,) = log_of(shown)
    assert (line["event"], line["level"]) == ("live_report_failed", "warning")


@pytest.mark.parametrize(("refused", "taken"), [(5, True), (6, False)])
def test_a_report_that_reaches_the_operator_that_stands_by_is_sent_again_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, operator: Operator, refused: int, taken: bool
) -> None:
    left, connect = [refused], http.client.HTTPSConnection.connect

    def chance(connection: http.client.HTTPSConnection) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise ConnectionRefusedError
        connect(connection)

    monkeypatch.setattr(http.client.HTTPSConnection, "connect", chance)
    shown = console()
    with Reporter(operator.url, mount(tmp_path, operator), shown, pace=Pace(at_once=0.01, last=2.0)):
        shown.live.began("train")
        eventually(lambda: operator.taken or log_of(shown))
        assert bool(operator.taken) is taken
        assert bool(log_of(shown)) is not taken


def test_a_pod_without_the_files_goes_on(tmp_path: Path) -> None:
    shown = console()
    with Reporter("https://localhost:1/v1/progress", tmp_path / "absent", shown, pace=QUICK):
        shown.live.began("train")
        eventually(lambda: log_of(shown))


def test_an_operator_that_never_answers_holds_the_end_up_for_seconds_only(tmp_path: Path, operator: Operator) -> None:
    with ExitStack() as stack:
        import socket

        deaf = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        shown, began = console(), time.monotonic()
        with Reporter(
            f"https://localhost:{deaf.getsockname()[1]}/", mount(tmp_path, operator), shown, pace=Pace(last=0.5)
        ):
            shown.live.began("train")
            time.sleep(0.1)
        assert time.monotonic() - began < 2


def test_where_nobody_takes_reports_there_is_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    with Reporter(None, tmp_path, console()):
        assert threading.active_count() == before
