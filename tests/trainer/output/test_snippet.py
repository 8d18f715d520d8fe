"""The card's snippet on models as they are made, without training: what was evaluated is what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config

from finetune_api.report import StageReport
from finetune_api.status import Artifact
from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.model.load import LoadedModel, load_model
from finetune_trainer.output.predictions import write_predictions
from finetune_trainer.output.serving import serving_of, write_serving
from finetune_trainer.output.snippet import snippet
from finetune_trainer.prepare.prepared import Prepared
from tests.support.tiny_job import job_spec, make_stage_input
from tests.support.tiny_model import make_model, make_prepared
from tests.support.tiny_tokenizer import make_tokenizer

DIGEST = "sha256:" + "0" * 64


def card_answers(folder: Path, loaded: LoadedModel, prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run the card's Python in a folder with ``model/``, over the lines of predictions.jsonl."""
    serving = serving_of(folder / "model", loaded.tokenizer, prepared, loaded.eos_ids, loaded.most_positions)
    write_serving(folder / "model", folder / "model", loaded.tokenizer, prepared, serving)
    artifact = Artifact(name="model", path="model/", digest=DIGEST, bytes=1)
    report = StageReport(stage="train", spec_digest=DIGEST, artifacts=[artifact])
    spec = job_spec(model=f"file://{folder}/model/", rows="file:///rows.jsonl", output=f"file://{folder}/")
    spec["dataset"]["template"] = {"name": "instruction"}
    text = snippet(make_stage_input("train", spec), report, serving=serving, prepared=prepared)
    (code,) = re.findall(r"```python\n(.*?)\nprint\(", text, flags=re.DOTALL)
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102  # the card's own
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    return [names["answer"](line["prompt"]) for line in lines]


def evaluated(folder: Path, loaded: LoadedModel, prepared: Prepared) -> list[str | None]:
    """What the evaluator says, kept as predictions.jsonl."""
    result = evaluate(loaded, prepared.parts["test"], prepared, texts=prepared.texts["test"], generate=True)
    write_predictions(folder / "predictions.jsonl", prepared, result, result)
    return [row.predicted for row in result.rows]


def test_an_answer_ends_where_the_models_positions_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make_tokenizer(tmp_path / "model", chat=False)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=512, n_positions=32, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    rows = [(" ".join(["the"] * n), "good") for n in range(20, 31)]
    loaded = load_model(tmp_path / "model", device=torch.device("cpu"), precision="Float32")
    prepared = make_prepared(
        tokenizer, {"train": rows, "validation": rows, "test": rows}, choices=None, max_new_tokens=12
    )
    said = evaluated(tmp_path, loaded, prepared)
    assert any(said)
    assert card_answers(tmp_path, loaded, prepared, monkeypatch) == said


def test_line_ends_in_an_answer_are_those_that_were_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model(tmp_path / "model", chat=False)
    stored = json.loads((tmp_path / "model/tokenizer.json").read_text())
    ends = {"type": "Replace", "pattern": {"String": "e"}, "content": "\r\n"}  # so that any model writes some
    stored["decoder"] = {"type": "Sequence", "decoders": [stored["decoder"], ends]}
    (tmp_path / "model/tokenizer.json").write_text(json.dumps(stored))
    loaded = load_model(tmp_path / "model", device=torch.device("cpu"), precision="Float32")
    rows = [(f"the film {word}", "good") for word in ("was", "man", "tower", "thin", "plot")]
    prepared = make_prepared(
        loaded.tokenizer, {"train": rows, "validation": rows, "test": rows}, choices=None, max_new_tokens=24
    )
    said = evaluated(tmp_path, loaded, prepared)
    assert any("\n" in (text or "") for text in said)
    assert card_answers(tmp_path, loaded, prepared, monkeypatch) == said
