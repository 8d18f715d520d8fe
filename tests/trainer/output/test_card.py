"""The card: metadata that the Hub reads, and a snippet that gives the very answers of predictions.jsonl."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from transformers import AutoTokenizer

from finetune_trainer.output.snippet import base_name
from tests.support.stage_run import Finished, run
from tests.support.tiny_job import job_spec, make_stage_input, topic_rows, write_rows
from tests.support.tiny_model import make_model

THINKING = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are kind. Today is {{ strftime_now('%d %B %Y') }}."
    "<|im_end|>\n{% endif %}{% for m in messages %}{% if m.role == 'assistant' and loop.last %}"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n{{ m.content }}<|im_end|>\n{% else %}<|im_start|>{{ m.role }}\n"
    "{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""A switch for thinking, today's date and a system turn of its own."""
BASE_SETTINGS = {
    "repetition_penalty": 1.7,
    "do_sample": True,
    "temperature": 0.6,
    "suppress_tokens": [70],
    "max_length": 9,
    "eos_token_id": 1,
}


def make_base(folder: Path, *, template: str | None = THINKING) -> None:
    make_model(folder, chat=template is not None)
    if template is not None:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.chat_template = {"default": template, "tool_use": "{{ messages }}"}
        tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(BASE_SETTINGS))


def finish(
    folder: Path, *, template: dict[str, Any], rows: list[dict[str, Any]], lora: bool, chat: bool = True
) -> Finished:
    make_base(folder / "base", template=THINKING if chat else None)
    training: dict[str, Any] = {"method": "LoRA", "lora": {"rank": 8}, "learningRate": "1e-2"} if lora else {}
    spec = job_spec(
        model=f"file://{folder}/base/",
        rows=f"file://{write_rows(folder / 'rows.jsonl', rows)}",
        output=f"file://{folder}/out/",
        epochs=8,
        maxLength=128,
        **training,
    )
    spec["dataset"]["template"] = template
    spec["dataset"]["split"].pop("stratifyBy")
    report, log = run(make_stage_input("train", spec, includes_prepare=True), folder)
    assert report.failure is None, report.failure
    return Finished(spec, None, report, log, folder / "out")


def conversations() -> list[dict[str, Any]]:
    rows = []
    for i, row in enumerate(topic_rows(120)):
        turns = [("user", row["text"]), ("assistant", row["label"])]
        if i % 2:
            turns = [("system", "Name it."), ("user", "hi"), ("assistant", "hi"), *turns]
        rows.append({"messages": [{"role": r, "content": c} for r, c in turns]})
    return rows


def questions() -> list[dict[str, Any]]:
    """Rows with choices of their own, in an order of their own."""
    labels = sorted({row["label"] for row in topic_rows(120)})
    rows = []
    for i, row in enumerate(topic_rows(120)):
        own = [*labels[i % 5 :], *labels[: i % 5]]
        rows.append({"question": row["text"], "choices": own, "answer": own.index(row["label"])})
    return rows


def instructions() -> list[dict[str, Any]]:
    """Open answers; some prompts spell control tokens, some are too long."""
    marks = ("", "<|im_end|>now ", "the thin plot " * 60)
    return [
        {"instruction": f"say {row['text']}", "input": marks[i % 3] + row["text"], "output": f"{row['label']} it is"}
        for i, row in enumerate(topic_rows(120))
    ]


CHOICES: dict[str, Any] = {"name": "topic"}
CASES: dict[str, Any] = {
    "choices": {"template": CHOICES, "rows": topic_rows(120), "lora": False},
    "choices, adapter": {"template": CHOICES, "rows": topic_rows(120), "lora": True},
    "choices, no chat template": {"template": CHOICES, "rows": topic_rows(120), "lora": False, "chat": False},
    "texts": {"template": {"name": "instruction"}, "rows": instructions(), "lora": False},
    "texts, no chat template": {
        "template": {"name": "instruction"},
        "rows": instructions(),
        "lora": True,
        "chat": False,
    },
    "own choices": {"template": {"name": "multiple-choice"}, "rows": questions(), "lora": False, "chat": False},
    "turns": {"template": {"name": "messages"}, "rows": conversations(), "lora": False},
}


def answers_of_the_snippet(output: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Run the card's code as it stands, in a process of its own, on every test row."""
    (code,) = re.findall(r"```python\n(.*?)```", (output / "README.md").read_text(), flags=re.DOTALL)
    lines = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    own = [[line["choices"]] if "choices" in line else [] for line in lines]
    asked = [[line.get("messages", line["prompt"]), *choices] for line, choices in zip(lines, own, strict=True)]
    program = re.sub(r"\nprint\(answer\(.*", "", code) + (
        "\nimport json, sys\nprint(json.dumps([answer(*asked) for asked in json.load(sys.stdin)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        cwd=output,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), lines


@pytest.mark.parametrize("case", CASES)
def test_the_cards_snippet_gives_the_very_answers_that_were_scored(tmp_path: Path, case: str) -> None:
    finished = finish(tmp_path, **CASES[case])
    said, lines = answers_of_the_snippet(finished.output)
    assert said == [line["tuned"] for line in lines]
    assert len(set(said)) > 1
    assert any(line.get("shortened") for line in lines) or not case.startswith("texts")


def test_the_metadata_is_what_the_hub_reads(tmp_path: Path) -> None:
    finished = finish(tmp_path, **CASES["texts, no chat template"])
    results = finished.report.results
    assert results is not None
    card = ModelCard.load(finished.output / "README.md")
    data = card.data.to_dict()
    assert (data["library_name"], data["pipeline_tag"]) == ("peft", "text-generation")
    assert data["tags"] == ["finetune-operator", "lora"]
    assert "license" not in data
    name, scores = (
        model_index_to_eval_results(data["model-index"]) if "model-index" in data else (None, card.data.eval_results)
    )
    assert (name or card.data.model_name) == "tiny"
    assert scores is not None
    told = {score.metric_name: (score.metric_type, score.metric_value) for score in scores}
    assert told["ExactMatch"] == ("exact_match", float(results.test.score))
    assert told["ExactMatch before fine-tuning"] == ("exact_match", float(results.baseline.score))


def test_the_card_tells_the_adapters_and_on_how_many_rows_a_validation_stands(tmp_path: Path) -> None:
    finished = finish(tmp_path, **CASES["texts, no chat template"])
    resolved, data = finished.report.resolved, finished.report.dataset
    assert resolved is not None
    assert data is not None
    card = (finished.output / "README.md").read_text()
    layers = ", ".join(f"`{name}`" for name in resolved.target_modules or [])
    assert f"The adapters have rank 8, alpha 32 on {layers}.\n" in card
    assert f"Loss and score of each validation are those of {data.validation} validation rows.\n" in card
    assert "8 epochs, " in card


def test_the_card_tells_what_the_base_had_and_what_was_set(tmp_path: Path) -> None:
    finished = finish(tmp_path, **CASES["choices"])
    card = (finished.output / "README.md").read_text()
    assert "`do_sample true, repetition_penalty 1.7, suppress_tokens [70], temperature 0.6`" in card
    settings = json.loads((finished.output / "model/generation_config.json").read_text())
    assert settings["do_sample"] is False
    assert settings["eos_token_id"] == [1, 4]
    assert set(settings) == {"bos_token_id", "do_sample", "eos_token_id", "max_new_tokens", "pad_token_id"}


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("hf://org/name", "org/name"),
        ("hf://org/name/", "org/name"),
        ("file:///models/base/", "/models/base"),
        ("s3://bucket/base/", "s3://bucket/base/"),
    ],
)
def test_an_adapter_names_a_base_that_peft_can_load(uri: str, name: str) -> None:
    assert base_name(uri) == name
