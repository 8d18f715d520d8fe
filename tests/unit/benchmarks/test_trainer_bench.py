"""The pure parts of the trainer's and the memory's benchmark: what is counted, and what the ratios say."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import pytest

from benchmarks.memory_bench.__main__ import status_mib, step_seconds
from benchmarks.memory_bench.rows import LABELS, rows
from benchmarks.trainer_bench.__main__ import OURS, ratios, spread
from benchmarks.trainer_bench.rows import LONGEST, TokenRows, instructions
from benchmarks.trainer_bench.worker import Order, Timer


def test_the_best_ratio_is_against_the_fastest_way_by_medians() -> None:
    speeds = {"a": {OURS.name: [300.0, 10.0, 310.0], "padded": [200.0, 200.0, 900.0], "default": [100.0, 99.0, 101.0]}}
    assert ratios(speeds) == {"a": {"padded": 1.5, "default": 3.0, "best": 1.5}}


def test_the_spread_is_the_range_as_a_share_of_the_median() -> None:
    assert spread([90.0, 100.0, 130.0]) == pytest.approx(0.4)


def test_the_first_epoch_warms_up_and_every_later_token_counts(capsys: pytest.CaptureFixture[str]) -> None:
    timer = Timer(100)
    for _ in range(2):
        timer.step(60)
        time.sleep(0.01)
        timer.step(40)
    timer.report(loss=1.5)
    result = json.loads(capsys.readouterr().out)
    assert (result["tokens"], result["steps"], result["loss"]) == (100, 2, 1.5)
    assert 0.01 <= result["seconds"] < 1


def test_an_order_travels_by_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    order = Order(model="m", rows="r", method="LoRA", epochs=0, variant="packed", settings={"length": 512})
    monkeypatch.setattr(sys, "argv", ["worker", order.to_json()])
    assert Order.from_arguments() == order


def test_the_first_rows_are_whole_rows() -> None:
    all_rows = TokenRows(np.arange(9, dtype=np.int32), np.array([0, 4, 9]), np.array([1, 3], dtype=np.int32))
    assert [all_rows.row(i) for i in range(2)] == [([0], [1, 2, 3]), ([4, 5, 6], [7, 8])]
    first = all_rows.first(1)
    assert (len(first), first.row(0), first.longest) == (1, ([0], [1, 2, 3]), 4)


class WordsAreTokens:
    eos_token_id = 99

    def __call__(self, text: str, **_more: Any) -> dict[str, list[int]]:
        return {"input_ids": [len(word) for word in text.split()]}


def test_instruction_rows_have_lengths_of_all_kinds_and_end_with_eos() -> None:
    made = instructions(["a bb ccc", "dddd eeeee"], WordsAreTokens())
    lengths = np.diff(made.offsets)
    assert made.longest <= LONGEST
    assert lengths.max() > 4 * lengths.min()
    assert 40 < float(np.median(made.prompt_lengths)) < 80
    prompts, completions = zip(*(made.row(i) for i in range(len(made))), strict=True)
    assert all(completion[-1] == 99 and 99 not in completion[:-1] for completion in completions)
    assert len({tuple(prompt) for prompt in prompts}) > 1000


def test_the_memory_benchmarks_rows_are_of_the_promised_size_and_all_different() -> None:
    source = rows()
    made = [next(source) for _ in range(500)]
    sizes = [len(json.dumps(row)) + 1 for row in made]
    assert 650 < min(sizes) < max(sizes) <= 1000
    assert len({row["text"] for row in made}) == 500
    assert {row["label"] for row in made} == set(LABELS)


def test_lines_of_a_process_status_are_read_in_mib() -> None:
    text = "Name:\tpython\nVmHWM:\t  204800 kB\nRssAnon:\t 1024 kB\n"
    assert (status_mib(text, "VmHWM"), status_mib(text, "RssAnon"), status_mib("", "VmHWM")) == (200, 1, 0)


def test_the_seconds_of_steps_come_from_the_log() -> None:
    log = [
        {"event": "step_started", "step": "read_rows"},
        {"event": "step_finished", "step": "read_rows", "seconds": 2.5},
        {"event": "dataset", "rows": 7},
    ]
    assert step_seconds(log) == {"read_rows": 2.5}
