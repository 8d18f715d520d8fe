"""A whole job whose answers call tools: scored by what is called, and said so wherever the metric is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from tests.support.chat_templates import TOOL_TEMPLATES
from tests.support.stage_run import run
from tests.support.tiny_job import job_spec, make_stage_input, topic_rows, write_rows
from tests.support.tiny_model import make_model

TOLD = "calls of tools are compared as JSON, in order"


def conversation(text: str, arguments: dict[str, Any]) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": "file", "arguments": json.dumps(arguments)}}
    answer = {"role": "assistant", "content": None, "tool_calls": [call]}
    return {"messages": [{"role": "user", "content": text}, answer]}


def test_a_job_is_scored_by_what_its_answers_call_and_says_so(tmp_path: Path) -> None:
    make_model(tmp_path / "model", vocab_size=520)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    tokenizer.chat_template = TOOL_TEMPLATES["tags"]
    tokenizer.save_pretrained(tmp_path / "model")
    rows = topic_rows(160)
    # The sealed rows have their arguments in another order than those that are learned.
    train = [conversation(row["text"], {"to": row["label"], "now": 1}) for row in rows[:120]]
    test = [conversation(row["text"], {"now": 1, "to": row["label"]}) for row in rows[120:]]
    spec = job_spec(
        model=f"file://{tmp_path}/model/", rows="", output=f"file://{tmp_path}/out/", epochs=10, maxLength=256
    )
    files = {
        "train": f"file://{write_rows(tmp_path / 'train.jsonl', train)}",
        "test": f"file://{write_rows(tmp_path / 'test.jsonl', test)}",
    }
    spec["dataset"] = {"files": files, "template": {"name": "messages"}}
    report, _ = run(make_stage_input("train", spec, includes_prepare=True), tmp_path / "work")
    assert report.failure is None, report.failure
    results = report.results
    assert results is not None
    assert results.metric == "ExactMatch"
    lines = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    for line in lines:
        labels = [json.loads(line[key].split("\n")[1])["arguments"].get("to") for key in ("expected", "tuned")]
        assert line["tunedCorrect"] == (labels[0] == labels[1])
        assert line["tuned"] != line["expected"]
        assert not line["tunedExactMatchTokens"]
    assert results.test.correct == sum(line["tunedCorrect"] for line in lines) > 0
    stored = json.loads((tmp_path / "out/results.json").read_text())
    assert stored["definitions"].keys() == {"ExactMatch", *(score.name for score in results.test.secondary or [])}
    assert TOLD in stored["definitions"]["ExactMatch"]
    assert not any(TOLD in text for name, text in stored["definitions"].items() if name != "ExactMatch")
    assert TOLD in (tmp_path / "out/README.md").read_text()
    assert TOLD in (tmp_path / "out/report/index.html").read_text()
