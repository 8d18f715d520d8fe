"""What ``render`` shows of rows: all that is learned of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune_trainer.prepare.preview import preview
from tests.support.tiny_job import job_spec, make_stage_input, write_rows


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
    path = write_rows(tmp_path / "rows.jsonl", rows)
    spec = job_spec(model="file:///none/", rows=f"file://{path}", output=f"file://{tmp_path}/out/")
    spec["dataset"]["template"] = {"name": "messages"}
    del spec["dataset"]["split"]["stratifyBy"]
    (shown,) = preview(make_stage_input("prepare", spec), rows=1)
    lines = shown.splitlines()
    at = lines.index("--- assistant (learned too)")
    assert lines[at + 1] == '{"name": "track", "arguments": {"order": "A-17"}}'
