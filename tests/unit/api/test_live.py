"""The live report: what is taken for one, and that status can hold whatever is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_api.live import MAX_LIVE_BYTES, LivePoint, LiveReport, parse_live_report

WHOLE: dict[str, Any] = {
    "v": 1,
    "sequence": 7,
    "phase": "Training",
    "percent": 62,
    "step": 620,
    "totalSteps": 1000,
    "epoch": "1.86",
    "etaSeconds": 840,
    "tokensPerSecond": 18342,
    "loss": "0.6132",
    "validation": [{"epoch": 1, "step": 330, "loss": "0.61", "score": "0.8102"}],
}


def parsed(**changes: Any) -> LiveReport | None:
    return parse_live_report(json.dumps({**WHOLE, **changes}).encode())


def test_a_report_is_read_as_it_was_written() -> None:
    report = parsed()
    assert report is not None
    assert report.to_wire() == WHOLE


def test_only_sequence_and_phase_are_needed() -> None:
    assert parse_live_report(b'{"sequence": 1, "phase": "Baseline"}') is not None


def test_fields_of_a_later_trainer_are_ignored() -> None:
    assert parsed(watts=300) == parsed()


@pytest.mark.parametrize(
    "changes",
    [
        {"v": 2},
        {"sequence": -1},
        {"phase": "Succeeded"},
        {"phase": "Failed"},
        {"percent": 100},
        {"percent": -1},
        {"step": 2**53 + 1},
        {"totalSteps": 10**30},
        {"etaSeconds": -1},
        {"tokensPerSecond": 10**19},
        {"epoch": "NaN"},
        {"loss": "Infinity"},
        {"loss": "1" * 25},
        {"validation": [WHOLE["validation"][0]] * 11},
        {"validation": [{**WHOLE["validation"][0], "step": 2**63}]},
        {"validation": [{**WHOLE["validation"][0], "score": "<script>"}]},
    ],
    ids=str,
)
def test_what_status_could_not_hold_is_no_report(changes: dict[str, Any]) -> None:
    assert parsed(**changes) is None


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b'"x"', b"\xff", b"{" * 5000, b'{"sequence": NaN}'])
def test_other_texts_are_no_report(text: bytes) -> None:
    assert parse_live_report(text) is None


def test_the_longest_report_fits_many_times() -> None:
    number, decimal = 2**53, "-1." + "9" * 21
    point = LivePoint(epoch=number, step=number, loss=decimal, score=decimal)
    longest = LiveReport(
        sequence=number,
        phase="Evaluating",
        percent=99,
        step=number,
        total_steps=number,
        epoch=decimal,
        eta_seconds=number,
        tokens_per_second=number,
        loss=decimal,
        validation=[point] * 10,
    )
    assert 3 * len(json.dumps(longest.to_wire())) < MAX_LIVE_BYTES
