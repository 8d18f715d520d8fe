"""The pure parts of the start's benchmark: moments from watch events and logs, and what lies between them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.start_bench.__main__ import figures_of, render
from benchmarks.start_bench.bare_pod import BARE_STAGES, bare_moments
from benchmarks.start_bench.cached import cache_objects, is_hit
from benchmarks.start_bench.measure import Round, in_order
from benchmarks.start_bench.timeline import STAGES, durations, log_moments, pod_moments, seconds_of


def line(second: float, event: str, **fields: Any) -> str:
    return json.dumps({"ts": f"2026-03-01T08:00:{second:06.3f}Z", "event": event, **fields})


LOG = (
    line(2.0, "started", seconds=0.75),
    line(6.0, "step_started", step="fetch_tokenizer"),
    line(6.5, "step_finished", step="fetch_tokenizer", seconds=0.5),
    line(8.0, "step_started", step="fetch_model"),
    line(9.5, "step_finished", step="fetch_model", seconds=1.5),
    line(11.0, "step_finished", step="load_model", seconds=1.5),
    line(12.0, "progress", step="fetch_model", done=1, total=2),
    line(13.0, "progress", step="baseline", done=16, total=90),
    line(19.0, "progress", step="baseline", done=90, total=90),
)
T0 = seconds_of("2026-03-01T08:00:00Z")


def test_the_trainers_log_tells_its_moments() -> None:
    assert {name: when - T0 for name, when in log_moments(LOG).items()} == {
        "container started": 1.25,
        "trainer speaks": 2.0,
        "libraries imported": 6.0,
        "rows prepared": 8.0,
        "model fetched": 9.5,
        "model loaded": 11.0,
        "first forward": 13.0,
    }


@pytest.mark.parametrize("length", range(len(LOG)))
def test_a_log_that_ends_early_tells_what_it_holds(length: int) -> None:
    whole, part = log_moments(LOG), log_moments(LOG[:length])
    assert part.items() <= whole.items()


def test_a_pod_is_scheduled_when_its_condition_says_so() -> None:
    waiting = {"status": {"conditions": [{"type": "PodScheduled", "status": "False"}]}}
    assert pod_moments({}, 1.0) == pod_moments(waiting, 1.0) == {"pod created": 1.0}
    placed = {"status": {"conditions": [{"type": "PodScheduled", "status": "True"}]}}
    assert pod_moments(placed, 2.0) == {"pod created": 2.0, "pod scheduled": 2.0}


def test_the_stages_together_are_the_time_from_start_to_the_last() -> None:
    seconds = durations({"a": 11.0, "b": 11.5, "c": 14.25}, start=10.0, stages=("a", "b", "c"))
    assert seconds == {"a": 1.0, "b": 0.5, "c": 2.75}


def test_a_stage_that_was_not_seen_is_an_error() -> None:
    with pytest.raises(KeyError):
        durations({"a": 1.0}, start=0.0, stages=("a", "b"))


def test_a_moment_that_was_seen_after_the_next_one_counts_as_that() -> None:
    assert in_order({"a": 3.0, "b": 2.0, "c": 4.0}, ("a", "b", "c")) == {"a": 2.0, "b": 2.0, "c": 4.0}


def test_the_bare_program_tells_its_moments_between_other_lines() -> None:
    lines = ["a warning", '{"event": "first forward", "when": 3.5}']
    assert bare_moments(lines) == {"first forward": 3.5}


def test_the_figures_are_medians_of_the_sums() -> None:
    rounds = [Round(dict.fromkeys(STAGES, 1.0 + n), dict.fromkeys(BARE_STAGES, 1.0)) for n in (0, 1, 2)]
    figures = figures_of(rounds)
    assert figures["apply_to_first_forward_seconds"] == 2.0 * len(STAGES)
    assert figures["apply_to_first_forward_spread_seconds"] == [len(STAGES), 3 * len(STAGES)]
    assert figures["bare_seconds"] == len(BARE_STAGES)
    assert figures["ratio"] == pytest.approx(2 * len(STAGES) / len(BARE_STAGES), abs=1e-3)


def test_a_cached_start_stands_beside_the_other_two() -> None:
    one = dict.fromkeys(STAGES, 1.0)
    rounds = [Round(operator=one, bare=dict.fromkeys(BARE_STAGES, 1.0), cached={**one, "model fetched": 0.5})]
    figures = figures_of(rounds)
    assert figures["cached_seconds"] == len(STAGES) - 0.5
    assert figures["cached_stages_seconds"] == {**one, "model fetched": 0.5}
    assert "with a model cache, seconds" in render(rounds)
    without = [Round(operator=one, bare=rounds[0].bare)]
    assert not any(name.startswith("cached") for name in figures_of(without))
    assert "model cache" not in render(without)


def test_the_cached_runtime_is_the_default_one_with_a_claim_of_the_namespace() -> None:
    volume, claim, runtime = cache_objects({"image": "i", "limits": {}}, "bench", "/somewhere")
    assert runtime["spec"] == {"image": "i", "limits": {}, "modelCache": {"claimName": claim["metadata"]["name"]}}
    assert volume["spec"]["claimRef"] == {"namespace": "bench", "name": claim["metadata"]["name"]}
    assert claim["spec"]["volumeName"] == volume["metadata"]["name"]
    assert claim["metadata"]["namespace"] == "bench"


def test_a_start_from_the_cache_is_one_whose_log_says_so() -> None:
    assert is_hit([*LOG, line(9.0, "model_cache_hit", bytes=1)])
    assert not is_hit([*LOG, line(9.0, "model_cache_stored", bytes=1)])
