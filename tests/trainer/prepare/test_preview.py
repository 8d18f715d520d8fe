"""What ``render`` shows of rows: all that is learned of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune_api.stage import StageInput
from finetune_trainer.prepare.preview import preview
from tests.support.tiny_job import job_spec, make_stage_input, write_rows


def messages_input(folder: Path, rows: list[dict[str, Any]]) -> StageInput:
    path = write_rows(folder / "rows.jsonl", rows)
    spec = job_spec(model="file:///none/", rows=f"file://{path}", output=f"file://{folder}/out/")
    spec["dataset"]["template"] = {"name": "messages"}
    del spec["dataset"]["split"]["stratifyBy"]
    return make_stage_input("prepare", spec)


def test_an_earlier_call_that_is_learned_is_shown(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "track", "arguments": {"order": "A-17"}}}
    rows: list[dict[str, Any]] = [
        {
            "messages": [
                {"role": "user", "content": f"Where is my order {i}?"},
                {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "content": "on its way"},
                {"role": "assistant", "content": f"It is on its way, {i}."},
            ]
        }
        for i in range(60)
    ]
    (shown,) = preview(messages_input(tmp_path, rows), rows=1)
    lines = shown.splitlines()
    at = lines.index("--- assistant (learned too)")
    assert lines[at + 1] == '{"name": "track", "arguments": {"order": "A-17"}}'


def test_thoughts_of_earlier_turns_are_shown_and_say_whether_they_are_learned(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {
            "messages": [
                {"role": "user", "content": f"Is {i} even?"},
                {"role": "assistant", "content": "No.", "reasoning_content": "A guess.", "weight": 0},
                {"role": "user", "content": "Look again."},
                {"role": "assistant", "content": "<think>\nIts last digit.\n</think>\n\nYes."},
                {"role": "user", "content": "Sure?"},
                {"role": "assistant", "content": "Yes.", "reasoning_content": "I looked."},
            ]
        }
        for i in range(60)
    ]
    (shown,) = preview(messages_input(tmp_path, rows), rows=1)
    assert shown.splitlines()[3:-1] == [
        "--- thought (where the model's chat template shows it)",
        "A guess.",
        "--- assistant",
        "No.",
        "--- user",
        "Look again.",
        "--- thought (learned too)",
        "Its last digit.",
        "--- assistant (learned too)",
        "Yes.",
        "--- user",
        "Sure?",
        "--- thought",
        "I looked.",
        "--- completion",
        "Yes.",
    ]


def test_a_system_turn_of_a_column_of_its_own_is_shown(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes."}]
    rows = [
        {"messages": [{**turns[0], "content": f"Sure of {i}?"}, turns[1]], "system": "Be brief."} for i in range(60)
    ]
    (shown,) = preview(messages_input(tmp_path, rows), rows=1)
    assert shown.splitlines()[1:4] == ["--- system", "Be brief.", "--- user"]
