"""What a model can't take ends the job in its prepare stage: no weights are loaded, no GPU is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, MixtralConfig

from finetune_api.reasons import REASONS, Reason
from tests.support.stage_run import run
from tests.support.tiny_job import job_spec, make_stage_input, topic_rows, write_rows
from tests.support.tiny_model import make_model


def tokens_added(folder: Path, *, use: bool) -> None:
    make_model(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<extra{i}>" for i in range(600 - len(tokenizer))] + (["river"] if use else []))
    tokenizer.save_pretrained(folder)


def layers_told(folder: Path) -> None:
    make_model(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": config["num_hidden_layers"] + 1}))


def experts(folder: Path) -> None:
    make_model(folder)
    config = MixtralConfig(vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    config.save_pretrained(folder)


CASES: dict[str, tuple[Callable[[Path], object], Reason, str]] = {
    "fewer layers in the weights than in the config": (
        layers_told,
        Reason.MODEL_INVALID,
        "config.json tells of 3 layers (num_hidden_layers), and the weights hold 2",
    ),
    "dropout of adapters on experts": (
        experts,
        Reason.INVALID_SPEC,
        "training.lora.dropout 0.1 is not possible with mixtral, whose 8 experts",
    ),
    "more length than learned positions": (
        lambda folder: make_model(folder, architecture="gpt2", chat=False),
        Reason.INVALID_SPEC,
        "training.maxLength 1024 is more than the 512 positions",
    ),
    "a token beyond the embeddings": (
        lambda folder: tokens_added(folder, use=True),
        Reason.MODEL_INVALID,
        "need token 600 ('river'), but the model's embeddings have 512 rows",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_prepare_with_the_numbers(name: str, tmp_path: Path) -> None:
    make, reason, words = CASES[name]
    make(tmp_path / "model")
    spec = job_spec(
        model=f"file://{tmp_path}/model/",
        rows=f"file://{write_rows(tmp_path / 'rows.jsonl', topic_rows(60))}",
        output=f"file://{tmp_path}/out/",
        **({"method": "LoRA", "lora": {"dropout": "0.1"}} if make is experts else {}),
    )
    report, _ = run(make_stage_input("prepare", spec), tmp_path)
    assert report.failure is not None
    assert report.failure.reason is reason
    assert words in report.failure.message
    assert not REASONS[reason].retried


def test_tokens_that_no_row_has_are_a_warning(tmp_path: Path) -> None:
    tokens_added(tmp_path / "model", use=False)
    spec = job_spec(
        model=f"file://{tmp_path}/model/",
        rows=f"file://{write_rows(tmp_path / 'rows.jsonl', topic_rows(60))}",
        output=f"file://{tmp_path}/out/",
    )
    report, log = run(make_stage_input("prepare", spec), tmp_path)
    assert report.failure is None
    (line,) = [line for line in log if line["event"] == "tokenizer_larger"]
    assert (line["level"], "600 tokens" in line["message"]) == ("warning", True)
