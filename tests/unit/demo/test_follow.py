"""What the demo shows of a trainer's log."""

from __future__ import annotations

import json

import pytest

from hack.demo.follow import finished, readable


@pytest.mark.parametrize(
    ("entry", "shown"),
    [
        (
            {"event": "step_finished", "stage": "train", "step": "baseline", "seconds": 12.345},
            "[train] baseline: 12.3 s",
        ),
        (
            {
                "event": "train",
                "stage": "train",
                "step": 3,
                "total_steps": 40,
                "train_loss": 0.5,
                "tokens_per_second": 210.4,
            },
            "[train] step 3/40  loss 0.5000  210 tokens/s",
        ),
        ({"event": "dataset", "stage": "prepare", "ts": "x", "rows": 7}, "[prepare] dataset rows=7"),
        ({"event": "report", "stage": "prepare", "digest": "x"}, None),
    ],
)
def test_a_log_line_is_shown_as_a_person_reads_it(entry: dict[str, object], shown: str | None) -> None:
    assert readable(json.dumps(entry)) == shown


def test_a_line_that_is_not_json_is_shown_as_it_is() -> None:
    assert readable("Traceback (most recent call last):") == "Traceback (most recent call last):"


def test_a_job_has_finished_only_with_the_condition() -> None:
    assert not finished({"status": {"phase": "Succeeded"}})
    assert finished({"status": {"conditions": [{"type": "Finished", "status": "True"}]}})
