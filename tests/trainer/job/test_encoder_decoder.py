"""Whole jobs with encoder-decoder models: they end with a gain, go on where they were stopped, and serve as scored."""

from __future__ import annotations

import copy
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from finetune_api.reasons import Reason
from finetune_api.stage import StageInput
from finetune_trainer.job import base_model
from finetune_trainer.job.watcher import TrainingWatcher
from finetune_trainer.process.interrupt import Interrupt, Interrupted
from finetune_trainer.training.observer import LogEntry
from tests.support.stage_run import Finished, run
from tests.support.tiny_job import job_spec, make_stage_input, topic_rows, write_rows
from tests.support.tiny_seq2seq import Kind, make_encoder_decoder


def job(folder: Path, kind: Kind = "t5", *, dropout: float = 0.0, count: int = 240, **training: Any) -> dict[str, Any]:
    make_encoder_decoder(folder / "model", kind, dropout=dropout, calm=True)
    rows = write_rows(folder / "rows.jsonl", topic_rows(count))
    model, output = f"file://{folder}/model/", f"file://{folder}/out/"
    return job_spec(
        model=model, rows=f"file://{rows}", output=output, **{"precision": "Auto", "maxLength": 200, **training}
    )


def whole(spec: dict[str, Any]) -> StageInput:
    return make_stage_input("train", spec, includes_prepare=True)


def finished(spec: dict[str, Any], folder: Path) -> Finished:
    report, log = run(whole(spec), folder)
    assert report.failure is None, report.failure
    return Finished(spec, None, report, log, folder / "out")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("full")
    return finished(job(folder, dropout=0.1, batchSize=8, epochs=14), folder)


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("lora")
    training = {"method": "LoRA", "lora": {"rank": 16, "alpha": 32}, "learningRate": "5e-3", "batchSize": 8}
    spec = job(folder, **training, epochs=12)
    spec["output"]["export"] = "Both"
    return finished(spec, folder)


def card_code(out: Path) -> str:
    (code,) = re.findall(r"```python\n(.*?)\nprint\(", (out / "README.md").read_text(), flags=re.DOTALL)
    return str(code)


def predictions(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


def test_a_full_fine_tune_ends_with_a_clear_gain(full: Finished) -> None:
    results, resolved = full.report.results, full.report.resolved
    assert results is not None
    assert resolved is not None
    assert results.metric == "ChoiceAccuracy"
    assert float(results.baseline.score) < 0.5
    assert float(results.test.score) > 0.9
    assert float(results.p_value or 1) < 0.001
    assert resolved.precision == "Float32"
    assert [artifact.name for artifact in full.report.artifacts or []].count("model") == 1


def test_adapters_end_with_a_gain_and_name_their_layers(lora: Finished) -> None:
    results, resolved = lora.report.results, lora.report.resolved
    assert results is not None
    assert resolved is not None
    assert float(results.test.score) > float(results.baseline.score) + 0.2
    assert resolved.target_modules == ["k", "o", "q", "v", "wi", "wo"]
    adapter = json.loads((lora.output / "adapter/adapter_config.json").read_text())
    assert adapter["task_type"] == "SEQ_2_SEQ_LM"


def test_a_job_goes_on_from_the_adapter_of_another(lora: Finished, tmp_path: Path) -> None:
    spec = copy.deepcopy(lora.spec)
    spec["model"]["adapter"] = {"uri": f"file://{lora.output}/adapter/"}
    spec["output"]["uri"] = f"file://{tmp_path}/out/"
    spec["training"]["epochs"] = 1
    before, earlier = finished(spec, tmp_path).report.results, lora.report.results
    assert before is not None
    assert earlier is not None
    # That job's score is the merged model's, whose last bits differ.
    assert (before.baseline.score, before.baseline.correct) == (earlier.test.score, earlier.test.correct)
    assert float(before.baseline.loss or "") == pytest.approx(float(earlier.test.loss or ""), rel=1e-3)


@pytest.mark.parametrize("name", ["full", "lora"])
def test_the_cards_python_gives_the_answers_that_were_scored(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = request.getfixturevalue(name).output
    code = card_code(out)
    assert "AutoModelForSeq2SeqLM" in code
    assert "CausalLM" not in code
    monkeypatch.chdir(out)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102  # the card's own
    for line in predictions(out)[:24]:
        assert names["answer"](line["prompt"]) == line["tuned"]


def test_the_card_says_what_kind_of_model_it_is(full: Finished) -> None:
    assert "pipeline_tag: text2text-generation" in (full.output / "README.md").read_text()


@pytest.mark.parametrize("kind", ["t5", "bart"])
@pytest.mark.parametrize("method", ["Full", "LoRA"])
def test_plain_generate_of_what_was_exported_writes_what_was_scored(tmp_path: Path, kind: Kind, method: str) -> None:
    spec = job(tmp_path, kind, count=60, epochs=1, method=method, batchSize=8, learningRate="3e-3")
    spec["dataset"]["template"] = {"inline": {"prompt": "Text: {{ text }} Intent:", "completion": "{{ label }}"}}
    spec["evaluation"] = {"metric": "ExactMatch"}
    spec["output"]["export"] = "Model"
    done = finished(spec, tmp_path)
    tokenizer: Any = AutoTokenizer.from_pretrained(done.output / "model")
    network: Any = AutoModelForSeq2SeqLM.from_pretrained(done.output / "model", dtype=torch.float32)
    said = []
    for line in predictions(done.output):
        output = network.generate(**tokenizer(line["prompt"], return_tensors="pt"))
        said.append(tokenizer.decode(output[0], skip_special_tokens=True).split("\n")[0].strip())
    assert said == [line["tuned"] for line in predictions(done.output)]
    settings = json.loads((done.output / "model/generation_config.json").read_text())
    assert settings["decoder_start_token_id"] == (2 if kind == "bart" else 0)
    assert settings.get("forced_bos_token_id") == (0 if kind == "bart" else None)
    assert "forced_eos_token_id" not in settings


def test_the_few_shot_score_is_that_of_plain_generate_with_examples_before_each_prompt(tmp_path: Path) -> None:
    spec = job(tmp_path, count=60, epochs=1, batchSize=8, maxLength=400, learningRate="1e-3")
    make_encoder_decoder(tmp_path / "model", "t5", seed=3)  # one that says something
    spec["dataset"]["template"] = {"inline": {"prompt": "Text: {{ text }} Intent:", "completion": "{{ label }}"}}
    spec["evaluation"] = {"metric": "ExactMatch", "fewShot": 2}
    done = finished(spec, tmp_path)
    prepared = json.loads((done.output / "prepared/prepared.json").read_text())
    examples = [f"{shot['prompt']} {shot['completion']}" for shot in prepared["few_shot"]]
    assert len(examples) == 2
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "model")
    network: Any = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model", dtype=torch.float32)

    def said(prompt: str) -> str:
        asked = tokenizer(prompt, return_tensors="pt")
        output = network.generate(**asked, max_new_tokens=prepared["max_new_tokens"], do_sample=False)
        return str(tokenizer.decode(output[0], skip_special_tokens=True)).strip().split("\n")[0].strip()

    lines = predictions(done.output)
    prompts = ["\n\n".join([*examples, line["prompt"]]) for line in lines]
    assert [line["fewShot"] for line in lines] == [said(prompt) for prompt in prompts]
    assert [line["baseline"] for line in lines] == [said(line["prompt"]) for line in lines]
    assert [line["fewShot"] for line in lines] != [line["baseline"] for line in lines]
    assert {line["fewShotExamples"] for line in lines} == {2}
    assert all(line["fewShotCorrect"] == (line["fewShot"] == line["expected"]) for line in lines)
    results = done.report.results
    assert results is not None
    shown = results.few_shot
    assert shown is not None
    assert (shown.examples, shown.fewer, shown.total) == (2, 0, len(lines))
    assert shown.correct == sum(line["fewShotCorrect"] for line in lines)
    sizes = [
        len(tokenizer(prompt)["input_ids"]) - len(tokenizer(line["prompt"])["input_ids"])
        for prompt, line in zip(prompts, lines, strict=True)
    ]
    assert shown.context_tokens == round(sum(sizes) / len(sizes))


def test_a_job_that_is_stopped_again_and_again_ends_like_one_that_never_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = job(tmp_path, dropout=0.1, count=80, epochs=2)
    finished(spec, tmp_path)
    expected = content(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    original = TrainingWatcher.on_log
    for at in (2, 3, 5):
        interrupt = Interrupt(leave=lambda code: pytest.fail(f"left with {code}"))

        def tell(self: TrainingWatcher, entry: LogEntry, at: int = at, interrupt: Interrupt = interrupt) -> None:
            original(self, entry)
            if entry.step == at:
                interrupt.handle()

        with monkeypatch.context() as patch:
            patch.setattr(TrainingWatcher, "on_log", tell)
            with pytest.raises(Interrupted):
                run(whole(spec), tmp_path, interrupt=interrupt, stream=io.StringIO())
    done = finished(spec, tmp_path)
    assert [line["step"] for line in done.log if line["event"] == "train"] == [6]
    assert content(tmp_path / "out") == expected


def content(out: Path) -> dict[str, Any]:
    report = json.loads((out / "results.json").read_bytes())
    weights = (out / "model/model.safetensors").read_bytes()
    return {"weights": weights, "results": report["results"], "predictions": (out / "predictions.jsonl").read_bytes()}


def test_a_cpu_computes_them_in_32_bits_unless_asked_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_model, "resolve_precision", lambda wish, _: "BFloat16" if wish == "Auto" else wish)
    make_encoder_decoder(tmp_path / "t5")
    host = base_model.Host(device=torch.device("cpu"), threads=1)
    assert base_model._precision(tmp_path / "t5", host, "Auto") == "Float32"
    assert base_model._precision(tmp_path / "t5", host, "BFloat16") == "BFloat16"


def refusal(spec: dict[str, Any], folder: Path) -> tuple[Reason, str]:
    report, _ = run(make_stage_input("prepare", spec), folder)
    assert report.failure is not None
    return report.failure.reason, report.failure.message


def test_conversations_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    spec = job(tmp_path)
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    write_rows(tmp_path / "rows.jsonl", [{"messages": turns}] * 20)
    spec["dataset"]["template"] = {"name": "messages"}
    spec["dataset"]["split"] = {}
    reason, message = refusal(spec, tmp_path)
    assert reason is Reason.TEMPLATE_INVALID
    assert "needs a model with a chat template" in message


def test_more_length_than_each_side_has_positions_is_refused(tmp_path: Path) -> None:
    reason, message = refusal(job(tmp_path, "bart", maxLength=300), tmp_path)
    assert reason is Reason.INVALID_SPEC
    assert "training.maxLength 300 is more than the 256 positions" in message


def test_a_kind_that_was_never_tried_is_refused_before_rows_are_read(tmp_path: Path) -> None:
    spec = job(tmp_path)
    config = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps({**config, "model_type": "longt5"}))
    reason, message = refusal(spec, tmp_path)
    assert reason is Reason.MODEL_INVALID
    assert "longt5 is an encoder-decoder model that can't be tuned here; of these, bart, mt5, pegasus" in message
