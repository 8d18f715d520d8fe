"""Which live report is shown when, and how much is kept."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from finetune_api.live import LiveReport
from finetune_operator.cluster.protocol import JobKey
from finetune_operator.process import reports
from finetune_operator.process.reports import ReportBook

KEY = JobKey("team-a", "support-intent")


class Bench:
    def __init__(self) -> None:
        self.seconds = 1000.0
        self.book = ReportBook(now=lambda: datetime(2026, 3, 1, tzinfo=UTC), clock=lambda: self.seconds)
        self.sequence = 0

    def take(self, uid: str = "uid", pod: str = "pod", **fields: Any) -> float | None:
        self.sequence += 1
        report = LiveReport(**{"sequence": self.sequence, "phase": "Training", **fields})
        return self.book.take(KEY, uid, pod, report)

    def percent(self, uid: str = "uid") -> int | None:
        shown = self.book.shown(uid)
        return None if shown is None else shown.report.percent


def test_the_first_report_of_a_job_is_shown_at_once() -> None:
    bench = Bench()
    assert bench.take(percent=1) == 0
    assert bench.percent() == 1


def test_another_phase_is_shown_ten_seconds_after_the_last_write_and_no_sooner() -> None:
    bench = Bench()
    bench.take(percent=1)
    bench.percent()
    bench.seconds += 3
    assert bench.take(phase="Uploading", percent=99) == 7
    assert bench.percent() == 1
    assert bench.book.due_in("uid") == 7
    bench.seconds += 7
    assert bench.percent() == 99
    assert bench.book.due_in("uid") is None


def test_a_percent_waits_for_a_minute_and_a_tenth_does_not() -> None:
    bench = Bench()
    bench.take(percent=10)
    bench.percent()
    assert bench.take(percent=11) == 60
    assert bench.take(percent=20) == 10


def test_the_newest_report_is_never_lost() -> None:
    bench = Bench()
    bench.take(percent=1)
    bench.percent()
    for percent in range(2, 90):
        bench.take(percent=percent)
    bench.seconds += 60
    assert bench.percent() == 89


def test_a_report_without_news_wakes_nobody_but_is_heard() -> None:
    bench = Bench()
    bench.take(percent=1)
    bench.percent()
    assert bench.take(percent=1) is None


def test_a_pod_that_was_silent_wakes_its_job_whatever_it_says() -> None:
    bench = Bench()
    bench.take(percent=1)
    bench.percent()
    bench.seconds += 300
    assert bench.take(percent=1) == 0


def test_with_a_thousand_jobs_each_is_written_for_every_twenty_seconds() -> None:
    bench = Bench()
    for number in range(1000):
        bench.take(f"uid-{number}", percent=1)
        bench.percent(f"uid-{number}")
    assert bench.book.pace == 20
    assert bench.take("uid-7", phase="Evaluating") == 20


def test_a_new_pod_begins_its_own_count() -> None:
    bench = Bench()
    bench.take(percent=50)
    bench.percent()
    bench.seconds += 10
    report = LiveReport(sequence=1, phase="Training", percent=40)
    assert bench.book.take(KEY, "uid", "another pod", report) == 0
    assert bench.percent() == 40


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MAX_JOBS", 3)
    bench = Bench()
    for uid in ("a", "b", "c"):
        bench.take(uid, percent=1)
    bench.take("a", percent=2)
    bench.take("d", percent=1)
    assert len(bench.book) == 3
    assert bench.percent("b") is None
    assert bench.percent("a") == 2


def test_a_job_that_is_forgotten_has_no_report() -> None:
    bench = Bench()
    bench.take(percent=1)
    bench.book.forget("uid")
    assert bench.percent() is None
    assert bench.book.due_in("uid") is None
