"""The pure parts of the trainer's and the memory's benchmark: what is counted, and what the ratios say."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from benchmarks.memory_bench import rows as memory_rows
from benchmarks.memory_bench.__main__ import status_mib, step_seconds
from benchmarks.memory_bench.rows import LABELS, rows, write_parquet, write_rows
from benchmarks.trainer_bench import figures, ways
from benchmarks.trainer_bench.__main__ import in_order
from benchmarks.trainer_bench.rows import LONGEST, TokenRows, instructions
from benchmarks.trainer_bench.worker import SEED, Order, Settings, Timer
from finetune_trainer.training.plan import steps


def result(tokens_per_second: float, **more: Any) -> dict[str, Any]:
    made = {
        "tokens": 10 * tokens_per_second,
        "rows": 40,
        "seconds": 10.0,
        "step_seconds": [0.1] * 30,
        "peak_mib": 1000.0,
        "losses": [4.0, 2.0],
        "held_loss": 2.0,
        "held_tokens_right": 0.5,
        "held_rows_right": 0.25,
    }
    return {**made, **more}


OURS = ways.Way(name="ours", library="ours", settings={})
TRL = ways.Way(name="TRL", library="trl", settings={})
PLAIN = ways.Way(name="plain", library="trainer", settings={})
AGAIN = ways.Way(name="ours, once more", library="ours", settings={})


def test_the_best_ratio_is_against_the_fastest_way_that_is_not_ours() -> None:
    results = {"ours": result(300), "TRL": result(200), "plain": result(100), "ours, once more": result(310)}
    found = figures.ratios(results, [OURS, TRL, PLAIN, AGAIN])
    assert found == pytest.approx({"TRL": 1.5, "plain": 3.0, "ours, once more": 300 / 310, "best": 1.5})


def test_the_spread_is_that_of_blocks_of_ten_steps() -> None:
    assert figures.spread(result(1, step_seconds=[1.0] * 10 + [2.0] * 10 + [4.0] * 10)) == pytest.approx(30 / 20)
    assert figures.spread(result(1, step_seconds=[0.5, 1.5] * 15)) == 0.0


def test_parity_is_over_every_step_and_the_rows_at_the_end() -> None:
    other = result(1, losses=[4.0, 2.06], held_loss=2.01, held_tokens_right=0.52, held_rows_right=0.21)
    found = figures.parity(result(1), other, same_steps=True)
    assert found.step == pytest.approx(0.03)
    assert (found.mean, found.held, found.right) == pytest.approx((0.01, 0.005, 0.04))


@pytest.mark.parametrize(
    ("different", "same"),
    [
        ({}, True),
        ({"losses": [4.0, 2.2]}, False),  # a step is too far
        ({"losses": [4.1, 2.05]}, False),  # each step is near enough, their mean is not
        ({"held_loss": 2.1}, False),
        ({"held_tokens_right": 0.4}, False),
        ({"held_rows_right": 0.35}, False),
    ],
)
def test_what_trained_something_else_is_told(different: dict[str, Any], same: bool) -> None:
    assert figures.parity(result(1), result(1, **different), same_steps=True).same == same


def test_packs_hold_other_rows_in_a_step_so_only_the_whole_is_compared() -> None:
    other = result(1, losses=[3.1, 3.1, 3.1])
    found = figures.parity(result(1), other, same_steps=False)
    assert (found.step, found.same) == (None, True)  # 3.3 per cent: the bound for packs
    assert not figures.parity(result(1), result(1, losses=[3.2] * 3), same_steps=False).same
    with pytest.raises(ValueError, match="2 steps against 3"):
        figures.parity(result(1), other, same_steps=True)


def test_the_table_marks_a_way_that_trained_something_else() -> None:
    results = {"ours": result(300), "TRL": result(200, losses=[4.0, 3.0], peak_mib=2000.0)}
    compared = {"TRL": figures.parity(results["ours"], results["TRL"], same_steps=True)}
    line = figures.lines(results, [OURS, TRL], compared).splitlines()[-1]
    assert "(too much)" in line
    assert line.split()[:7] == ["TRL", "200", "4.00", "0.0%", "1.50", "2000", "0.50"]


class Speeds:
    """Measures by a rule, and notes what was asked for."""

    def __init__(self, rule: Any) -> None:
        self.rule, self.asked = rule, list[Settings]()

    def __call__(self, _library: str, settings: Settings) -> dict[str, Any] | None:
        self.asked.append(settings)
        speed = self.rule(settings)
        return None if speed is None else {"tokens": speed, "seconds": 1.0, "peak_mib": 1.0}


STEP = ways.Step(rows=4, tokens=700, longest=300)


def trl_speed(settings: Settings) -> float | None:
    if settings["layout"] == "default" or settings["precision"] == "autocast":
        return None
    speed = {"padded": 100.0, "free": 90.0, "packed": 120.0}[str(settings["layout"])]
    return (
        speed * (0.5 if settings["precision"] == "bfloat16" else 1) * (1.1 if settings["attention"] == "eager" else 1)
    )


def test_the_search_finds_the_fastest_settings_and_lists_what_took_too_long() -> None:
    measure = Speeds(trl_speed)
    tried = ways.search("trl", measure, STEP)
    assert ways.best(tried).settings == {
        "layout": "packed",
        "precision": "float32",
        "attention": "eager",
        "packs": 1,
        "length": 700,
        "micro": 1,
    }
    assert [t.settings["layout"] for t in tried if t.tokens_per_second is None] == ["padded", "default"]
    assert len(measure.asked) == len(tried) == len({json.dumps(t.settings, sort_keys=True) for t in tried})


def test_each_layout_precision_and_attention_is_tried() -> None:
    tried = [t.settings for t in ways.search("trl", Speeds(trl_speed), STEP)]
    assert {t.get("precision") for t in tried} == {"float32", "bfloat16", "autocast", None}
    assert {t.get("attention") for t in tried} == {"sdpa", "eager", None}
    assert {(t["layout"], t.get("micro")) for t in tried} == {
        *(("padded", n) for n in (4, 2, 1)),
        *(("free", n) for n in (4, 2, 1)),
        ("packed", 1),
        ("default", None),
    }
    assert {t["length"] for t in tried if t["layout"] == "packed"} == {700, 350}


@pytest.mark.parametrize(
    ("tokens", "longest", "packs"),
    [(1200, 300, {1: 1200, 2: 600, 4: 300}), (700, 400, {1: 700}), (300, 400, {1: 400})],
)
def test_packs_hold_a_step_together_and_no_row_is_cut(tokens: int, longest: int, packs: dict[int, int]) -> None:
    assert ways.Step(rows=4, tokens=tokens, longest=longest).packs == packs


def test_the_plain_trainer_begins_with_the_fastest_padded_settings_of_trl() -> None:
    trl = ways.search("trl", Speeds(trl_speed), STEP)
    measure = Speeds(lambda settings: 2.0 if settings["attention"] == "sdpa" else 1.0)
    tried = ways.search("trainer", measure, STEP, trl=trl)
    first = {"layout": "padded", "precision": "float32", "attention": "eager", "micro": 4}
    assert [t.settings for t in tried] == [first, {**first, "attention": "sdpa"}]


def test_a_machine_on_which_everything_takes_too_long_is_told() -> None:
    with pytest.raises(ValueError, match="too slow"):
        ways.search("trainer", Speeds(lambda _: None), STEP)


def test_what_was_tried_is_kept_for_a_kind_of_processor_a_method_and_a_batch(tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    assert ways.load("k", "Full", 4, path) is None
    ways.save("k", "Full", 4, {"date": "d"}, path)
    ways.save("k", "LoRA", 4, {"date": "e"}, path)
    assert ways.load("k", "Full", 4, path) == {"date": "d"}
    assert [ways.load(*key, path) for key in (("other", "Full", 4), ("k", "Full", 8))] == [None, None]


def test_a_precision_that_took_too_long_for_one_method_is_not_tried_for_another(tmp_path: Path) -> None:
    path, kind = tmp_path / "tuned.json", "AVX2, 2 threads"
    tries = [("float32", 88.0), ("float32", None), ("bfloat16", None), ("autocast", None)]
    found = [
        {"settings": {"precision": p, "layout": "padded"}, "tokens_per_second": t, "peak_mib": t} for p, t in tries
    ]
    found.append({"settings": {"layout": "default"}, "tokens_per_second": None, "peak_mib": None})
    ways.save(kind, "Full", 4, {"tried": {"topics": {"trl": found, "ours": []}}}, path)
    assert ways.hopeless(kind, path) == {"bfloat16", "autocast", "default"}
    assert ways.hopeless("AVX512, 2 threads", path) == set()
    assert ways.hopeless(kind, tmp_path / "none.json") == set()


def test_a_try_reads_back_as_it_was_kept() -> None:
    kept = ways.Tried(settings={"micro": 4}, tokens_per_second=12.34, peak_mib=99.6).to_json()
    assert ways.Tried(**kept) == ways.Tried(settings={"micro": 4}, tokens_per_second=12.3, peak_mib=100)
    assert ways.Tried(settings={}, tokens_per_second=None, peak_mib=None).to_json()["peak_mib"] is None


@pytest.mark.parametrize("beginning", [True, False])
def test_the_ablation_is_measured_where_rows_begin_alike_and_ours_comes_first_and_last(beginning: bool) -> None:
    tried = [ways.Tried(settings={"micro": 2}, tokens_per_second=1.0, peak_mib=1.0)]
    made = ways.ways({"trl": tried, "trainer": tried}, beginning=beginning)
    assert (made[0], made[-1]) == (OURS, AGAIN)
    assert any(way.settings == {"shared": False} for way in made) == beginning
    assert [way.library for way in made if not way.ours] == ["trl", "trainer"]


def test_warm_up_is_not_timed_and_every_later_token_counts(capsys: pytest.CaptureFixture[str]) -> None:
    timer = Timer(2)
    for _ in range(4):
        time.sleep(0.01)
        timer.step(60, 3)
    found = timer.result()
    assert (found["tokens"], found["rows"], found["steps"], len(found["step_seconds"])) == (120, 6, 2, 2)
    assert 0.02 <= found["seconds"] < 1
    assert found["peak_mib"] > 10


def test_an_order_travels_by_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    order = Order(
        model="m",
        rows="r",
        held="h",
        method="LoRA",
        batch=4,
        warm=10,
        learning_rate=5e-4,
        factors=(0.5, 1.0),
        settings={"length": 512},
    )
    monkeypatch.setattr(sys, "argv", ["worker", order.to_json()])
    assert Order.from_arguments() == order


def rows_of(lengths: list[int]) -> TokenRows:
    tokens = np.concatenate([np.full(length, i) for i, length in enumerate(lengths)]).astype(np.int32)
    return TokenRows(tokens, np.cumsum([0, *lengths]), np.ones(len(lengths), dtype=np.int32))


def test_rows_are_taken_whole_and_in_the_order_asked_for() -> None:
    all_rows = TokenRows(np.arange(9, dtype=np.int32), np.array([0, 4, 9]), np.array([1, 3], dtype=np.int32))
    assert [all_rows.row(i) for i in range(2)] == [([0], [1, 2, 3]), ([4, 5, 6], [7, 8])]
    taken = all_rows.take([1, 0])
    assert [taken.row(i) for i in range(2)] == [([4, 5, 6], [7, 8]), ([0], [1, 2, 3])]
    assert (len(all_rows.take([])), all_rows.take([0]).longest) == (0, 4)


def test_the_others_get_the_rows_of_our_steps_the_longest_of_each_first() -> None:
    given = in_order(rows_of([3, 9, 4, 7, 5, 8]), 2)
    numbers = [given.row(i)[0][0] for i in range(6)]
    ours = [step.tolist() for step in steps(SEED, 0, 6, 2)]
    assert [set(numbers[i : i + 2]) for i in (0, 2, 4)] == [set(step) for step in ours]
    lengths = np.diff(given.offsets).tolist()
    assert all(lengths[i] >= lengths[i + 1] for i in (0, 2, 4))


class WordsAreTokens:
    eos_token_id = 99

    def __call__(self, text: str, **_more: Any) -> dict[str, list[int]]:
        return {"input_ids": [len(word) for word in text.split()]}


def test_instruction_rows_have_lengths_of_all_kinds_and_end_with_eos() -> None:
    made, held = instructions(["a bb ccc", "dddd eeeee"], WordsAreTokens())
    assert (len(made), len(held)) == (960, 64)
    lengths = np.diff(made.offsets)
    assert made.longest <= LONGEST
    assert lengths.max() > 4 * lengths.min()
    assert 40 < float(np.median(made.prompt_lengths)) < 80
    prompts, completions = zip(*(made.row(i) for i in range(len(made))), strict=True)
    assert all(completion[-1] == 99 and 99 not in completion[:-1] for completion in completions)
    assert len({tuple(prompt) for prompt in prompts}) > 950


def test_the_memory_benchmarks_rows_are_of_the_promised_size_and_all_different() -> None:
    source = rows()
    made = [next(source) for _ in range(500)]
    sizes = [len(json.dumps(row)) + 1 for row in made]
    assert 650 < min(sizes) < max(sizes) <= 1000
    assert len({row["text"] for row in made}) == 500
    assert {row["label"] for row in made} == set(LABELS)


def test_the_memory_benchmarks_parquet_file_holds_the_same_rows_in_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_rows, "_GROUP", 50)
    write_parquet(tmp_path / "rows.parquet", size=100_000)
    with parquet.ParquetFile(tmp_path / "rows.parquet") as file:
        assert file.metadata.num_row_groups == 3
        assert file.metadata.row_group(0).column(1).compression == "UNCOMPRESSED"
        table = file.read()
    write_rows(tmp_path / "rows.jsonl", size=200_000)
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()[: table.num_rows]
    assert table.to_pylist() == [json.loads(line) for line in lines]


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
