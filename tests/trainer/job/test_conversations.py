"""A whole job on conversations whose answers are all learned, whatever the chat template makes of earlier ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.stage_run import run
from tests.support.tiny_job import job_spec, make_stage_input, write_rows
from tests.support.tiny_model import make_model
from tests.support.tiny_tokenizer import CHAT_TEMPLATE

REWRITING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and not loop.last %}"
    "[{{ m.content }}]{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Shows earlier answers otherwise, so that no two answers of a conversation can be learned in one row."""


def conversations(count: int = 120) -> list[dict[str, Any]]:
    """The first answer repeats the word that is asked for, the second one is always the same."""
    rows = []
    for i in range(count):
        word = ("bug", "billing", "card")[i % 3]
        turns = (
            ["user", f"Say {word} {i}"],
            ["assistant", word],
            ["user", "thanks"],
            ["assistant", "bye" if i % 2 else "ok"],
        )
        rows.append({"messages": [{"role": role, "content": content} for role, content in turns]})
    return rows


def spec_for(folder: Path, template: str, **blocks: Any) -> dict[str, Any]:
    make_model(folder / "model")
    (folder / "model/chat_template.jinja").write_text(template)
    rows = write_rows(folder / "rows.jsonl", conversations())
    places = {"model": f"file://{folder}/model/", "rows": f"file://{rows}", "output": f"file://{folder}/out/"}
    spec = job_spec(**places, epochs=1)
    spec["dataset"]["template"] = {"name": "messages", **blocks}
    del spec["dataset"]["split"]["stratifyBy"]
    return spec


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, REWRITING], ids=["goes on", "rewrites"])
@pytest.mark.parametrize("blocks", [{}, {"choices": ["bye", "ok"]}], ids=["open", "choices"])
def test_a_job_on_conversations_ends_with_both_scores(tmp_path: Path, template: str, blocks: dict[str, Any]) -> None:
    report, _ = run(
        make_stage_input("train", spec_for(tmp_path, template, **blocks), includes_prepare=True), tmp_path / "work"
    )
    assert report.failure is None, report.failure
    assert report.results is not None
    assert report.results.metric == ("ChoiceAccuracy" if blocks else "ExactMatch")
    assert report.dataset is not None
    assert report.dataset.train_answers == 2 * report.dataset.train
    lines = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert len(lines) == report.results.test.total == report.dataset.test
    assert {line["expected"] for line in lines} == {"bye", "ok"}
