"""The watchdog ends a stage that shows no sign of life, and no other."""

from __future__ import annotations

import io
import threading
import time
from itertools import count

import pytest

from finetune_trainer.process.console import Console
from finetune_trainer.process.watchdog import Watchdog, stacks

SHORT, LONG = 0.1, 30.0


def test_without_a_sign_the_stage_has_stalled_and_that_is_said_once() -> None:
    calls, called = [], threading.Event()

    def stalled() -> None:
        calls.append(threading.current_thread().name)
        called.set()

    with Watchdog(SHORT, signs=lambda: 1, stalled=stalled):
        assert called.wait(LONG)
        time.sleep(3 * SHORT)
    assert calls == ["watchdog"]


def test_a_stage_that_shows_signs_goes_on() -> None:
    called, looks, enough = threading.Event(), count(), threading.Event()

    def signs() -> int:
        number = next(looks)
        if number == 100:  # five times the timeout
            enough.set()
        return number

    with Watchdog(SHORT, signs=signs, stalled=called.set):
        assert enough.wait(LONG)
    assert not called.is_set()


def test_time_counts_from_the_last_sign() -> None:
    called, looks = threading.Event(), count()

    with Watchdog(SHORT, signs=lambda: min(next(looks), 50), stalled=called.set):
        assert called.wait(LONG)
    # 51 looks with another number each, then as many as the timeout has.
    assert next(looks) == 51 + 20


@pytest.mark.parametrize("seconds", [None, SHORT])
def test_nothing_is_called_once_the_block_has_ended(seconds: float | None) -> None:
    called = threading.Event()
    with Watchdog(seconds, signs=lambda: 1, stalled=called.set):
        pass
    time.sleep(3 * SHORT)
    assert not called.is_set()


def test_without_a_timeout_no_thread_watches() -> None:
    with Watchdog(None, signs=lambda: 1, stalled=lambda: None):
        assert "watchdog" not in {thread.name for thread in threading.enumerate()}


def test_lines_and_every_call_of_a_progress_are_signs() -> None:
    console = Console(job="a", stage=None, stream=io.StringIO(), interactive=False)
    seen = [console.signs]
    console.event("x")
    seen.append(console.signs)
    with console.step("upload", "store") as progress:
        seen.append(console.signs)
        assert console.running == "upload"
        progress(1, 10)
        seen.append(console.signs)
        progress(1, 10)  # writes no line, but something happened
        seen.append(console.signs)
    assert sorted(set(seen)) == seen
    assert console.running is None


def test_the_stacks_name_the_function_that_each_thread_is_in() -> None:
    found = stacks()
    assert "test_the_stacks_name_the_function_that_each_thread_is_in" in found[threading.current_thread().name]
