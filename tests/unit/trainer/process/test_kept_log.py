"""What a stage keeps of its log: the beginning and the end, whole lines, never more than the bound."""

from __future__ import annotations

import json

from finetune_trainer.process.kept_log import KeptLog


def numbered(log: KeptLog, count: int) -> list[dict[str, int]]:
    for number in range(count):
        log.add(json.dumps({"n": number}))
    return [json.loads(line) for line in log.read().decode().splitlines()]


def test_a_short_log_is_kept_whole() -> None:
    assert numbered(KeptLog(), 1000) == [{"n": number} for number in range(1000)]


def test_of_a_long_log_both_ends_are_kept_and_a_line_says_how_many_are_missing() -> None:
    lines = numbered(KeptLog(first=40, newest=100), 1000)
    gap = lines.index(next(line for line in lines if line.get("event") == "left_out"))
    first, newest = lines[:gap], lines[gap + 1 :]
    assert first == [{"n": number} for number in range(len(first))]
    assert newest == [{"n": number} for number in range(1000 - len(newest), 1000)]
    assert len(first) > 1
    assert len(newest) > 1
    assert lines[gap]["lines"] == 1000 - len(first) - len(newest)


def test_no_log_is_longer_than_its_bound() -> None:
    log = KeptLog(first=300, newest=700)
    for length in (10, 290, 5, 699, 2000, 400, 350, 20):
        log.add("x" * length)
        assert len(log.read()) <= 1000 + len(b'{"event": "left_out", "lines": 99}\n')


def test_a_line_that_is_longer_than_the_bound_is_left_out_and_counted() -> None:
    log = KeptLog(first=10, newest=10)
    log.add("x" * 50)
    log.add('"end"')
    assert [json.loads(line) for line in log.read().splitlines()] == [{"event": "left_out", "lines": 1}, "end"]
