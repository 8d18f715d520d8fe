"""``finetune-trainer reproduce``: the job of a finished result runs once more and is compared with it."""

from __future__ import annotations

import io
import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from finetune_api.digest import spec_digest
from finetune_api.job import FineTuneJobSpec
from finetune_trainer.__main__ import main
from finetune_trainer.job.reproduce import Request, reproduce
from finetune_trainer.job.watcher import TrainingWatcher
from finetune_trainer.process.console import Console
from finetune_trainer.process.interrupt import Interrupt, Interrupted
from finetune_trainer.training.observer import LogEntry
from tests.support.docs import ROOT, commands
from tests.support.hubserver import HubServer
from tests.support.result_copy import snapshot
from tests.support.result_pair import changed_copy, edit_manifest, rewrite
from tests.support.s3server import S3Server
from tests.support.stage_run import events, run
from tests.support.tiny_job import job_spec, make_stage_input, topic_rows, write_rows
from tests.support.tiny_model import WORDS

PAGE = ROOT / "docs/reproduce.md"
Log = list[dict[str, Any]]
PROMPT = {
    "name": "topic",
    "jinja": "{{ text }} Topic: ||| {{ label }}",
    "answer_choices": " ||| ".join(sorted(WORDS.values())),
}


def places(tiny: Path, folder: Path, rows: Path) -> dict[str, str]:
    return {"model": f"file://{tiny}/model/", "rows": f"file://{rows}", "output": f"file://{folder}/out/"}


def train(spec: dict[str, Any], folder: Path) -> Path:
    """Run a job to its end and return its folder."""
    report, _ = run(make_stage_input("train", spec, includes_prepare=True), folder)
    assert report.failure is None, report.failure
    return folder / "out"


@pytest.fixture(scope="module")
def output(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of a small job whose rows may be changed beside it."""
    folder = tmp_path_factory.mktemp("reproduced")
    rows = write_rows(folder / "rows.jsonl", topic_rows(60))
    return train(job_spec(**places(tiny, folder, rows), epochs=1, precision="Auto"), folder)


@pytest.fixture
def again(tmp_path: Path) -> Callable[..., tuple[int, Log]]:
    """Reproduce the result in a folder; (exit code, log)."""

    def call(place: Path | str, **options: Any) -> tuple[int, Log]:
        stream, work = io.StringIO(), tmp_path / "scratch"
        work.mkdir(exist_ok=True)
        uri = place if isinstance(place, str) else f"file://{place}/"
        code = reproduce(
            Request(uri=uri, work_dir=work, **options),
            console=Console(job="reproduce", stage=None, stream=stream, interactive=False),
            interrupt=Interrupt(),
        )
        assert list(work.iterdir()) == []
        return code, events(stream)

    return call


def states(log: Log) -> dict[str, str]:
    return {line["subject"]: line["state"] for line in log if line["event"] == "compared"}


def message(log: Log) -> str:
    return str(log[-1]["message"])


def documented(number: int, replaced: dict[str, str]) -> list[str]:
    """Arguments of a command of the page, with other places in it."""
    line = commands(PAGE, "finetune-trainer")[number]
    for place, here in replaced.items():
        assert place in line
        line = line.replace(place, here)
    return line.split()[1:]


def test_a_finished_job_comes_out_the_same_in_all_and_its_folder_stays_as_it_was(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(output)
    code = main(documented(0, {"s3://team-a-models/support-intent/": f"file://{output}/"}))
    log = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (code, set(states(log).values()), log[-1]["event"]) == (0, {"Same"}, "reproduced")
    assert {"split", "tokens", "prepared rows", "losses", "baseline", "test", "weights"} <= states(log).keys()
    assert not [line for line in log if line["event"] == "surroundings_differ"]
    assert message(log) == "reproduced: all that was compared is the same"
    assert snapshot(output) == before


def test_a_person_reads_a_table_the_result_is_kept_and_other_threads_and_a_moved_file_are_told(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def on_a_volume(document: dict[str, Any]) -> None:
        document["spec"]["dataset"]["uri"] = "pvc://claim/rows.jsonl"
        spec = FineTuneJobSpec.model_validate(document["spec"], context={"local": True})
        document["specDigest"] = document["report"]["specDigest"] = spec_digest(spec)
        document["machine"]["threads"] = 999

    copy = changed_copy(output, tmp_path / "copy", lambda folder: edit_manifest(folder, on_a_volume))
    kept = tmp_path / "kept"
    here = {"/data/out/": f"{copy}", "/data/rows.jsonl": f"{output.parent}/rows.jsonl", "again": f"{kept}"}
    arguments = documented(1, here)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert main(["reproduce", f"file://{copy}"]) == 10
    assert "--at dataset.uri=file:///…" in capsys.readouterr().err
    assert main(arguments) == 0
    table = [line.split(maxsplit=2) for line in capsys.readouterr().err.splitlines()[-22:]]
    told = {line[0]: line[1:] for line in table if len(line) == 3}
    assert told["losses"][0] == told["weights"][0] == told["dataset.uri"][0] == "same"
    assert told["surroundings"][1].startswith("threads 999, now ")
    assert (kept / "manifest.json").exists()
    assert main(arguments) == 19


def test_rows_that_changed_since_are_told_by_their_field_before_what_follows_from_them(
    output: Path, tmp_path: Path, again: Callable[..., tuple[int, Log]]
) -> None:
    rows = topic_rows(60)
    rows[7]["text"] = "other words altogether"
    changed = write_rows(tmp_path / "rows.jsonl", rows)
    code, log = again(output, places={"dataset.uri": f"file://{changed}"})
    assert code == 40
    words = f"dataset.uri: file://{changed} holds something else than file://{output.parent}/rows.jsonl did then"
    assert f"what differs first is {words}: digest sha256:" in message(log)
    assert states(log)["prepared rows"] == "Different"
    assert states(log)["model.uri"] == "Same"
    steps = [line.get("step") if line["event"] == "step_started" else line["event"] for line in log]
    told = steps.index("input_differs")
    assert log[told]["message"].startswith(words)
    assert told < steps.index("read_rows")


@pytest.fixture
def in_s3(s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], str]:
    """Store a folder in S3, which the environment names with its keys; its URI."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)

    def store(folder: Path) -> str:
        for path in folder.rglob("*"):
            if path.is_file():
                s3.client().upload_file(str(path), bucket, f"out/{path.relative_to(folder).as_posix()}")
        return f"s3://{bucket}/out/"

    return store


def test_of_a_result_in_s3_last_digits_of_another_machine_are_told_with_the_largest_difference(
    output: Path, tmp_path: Path, in_s3: Callable[[Path], str], again: Callable[..., tuple[int, Log]]
) -> None:
    sizes = []

    def elsewhere(folder: Path) -> None:
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        loss = lines[0]["train_loss"]
        lines[0]["train_loss"] = math.nextafter(loss, 0)
        sizes.append(loss - lines[0]["train_loss"])
        rewrite(folder, "metrics.jsonl", "\n".join(json.dumps(line) for line in lines).encode())
        edit_manifest(folder, lambda document: document["machine"].update(capability="OTHER"))

    code, log = again(in_s3(changed_copy(output, tmp_path / "copy", elsewhere)))
    assert code == 41
    (loss,) = [line for line in log if line.get("subject") == "losses"]
    assert loss["largest_difference"] == sizes[0]
    assert [s for s, state in states(log).items() if state == "Different"] == ["losses"]
    assert "instruction set or GPU OTHER, now " in message(log)


def test_a_training_that_went_on_from_an_adapter_and_was_stopped_in_between_comes_out_the_same(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: Callable[..., tuple[int, Log]]
) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny / "model")
    get_peft_model(base, LoraConfig(r=4, task_type="CAUSAL_LM")).save_pretrained(tmp_path / "given")
    rows = write_rows(tmp_path / "rows.jsonl", topic_rows(60))
    spec = job_spec(**places(tiny, tmp_path, rows), epochs=2, method="LoRA")
    spec["model"]["adapter"] = {"uri": f"file://{tmp_path}/given/"}
    spec["evaluation"] = {"fewShot": 1, "limit": 12, "minScore": "0.99"}
    job, interrupt, tell = make_stage_input("train", spec, includes_prepare=True), Interrupt(), TrainingWatcher.on_log

    def stop(self: TrainingWatcher, entry: LogEntry) -> None:
        tell(self, entry)
        if entry.step == 2:
            interrupt.handle()

    with monkeypatch.context() as patch:
        patch.setattr(TrainingWatcher, "on_log", stop)
        with pytest.raises(Interrupted):
            run(job, tmp_path, interrupt=interrupt)
    report, _ = run(job, tmp_path)
    assert report.not_accepted
    code, log = again(tmp_path / "out")
    assert (code, set(states(log).values())) == (0, {"Same"})
    assert {"model.adapter.uri", "few-shot"} <= states(log).keys()


def test_rows_of_a_hub_are_read_at_the_commit_of_then_and_a_template_is_the_text_of_then(
    tiny: Path,
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    again: Callable[..., tuple[int, Log]],
) -> None:
    def lines(rows: Log) -> bytes:
        return "".join(json.dumps(row) + "\n" for row in rows).encode()

    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    rows, place, commit = topic_rows(60), "datasets/org/rows", hub.commits["main"]
    hub.repos[place] = {"train.jsonl": lines(rows[:40]), "test.jsonl": lines(rows[40:])}
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text(json.dumps({"templates": {"1": PROMPT}}))
    spec = job_spec(**places(tiny, tmp_path, tmp_path), epochs=1)
    spec["dataset"] |= {"uri": f"hf://{place}", "split": {}}
    spec["dataset"]["template"] = {"promptsource": {"uri": f"file://{prompts}", "name": "topic"}}
    output = train(spec, tmp_path)
    hub.history[commit] = {place: dict(hub.repos[place])}
    hub.commits |= {"main": "f" * 40, "then": commit}
    hub.repos[place] = {"train.jsonl": lines(rows[:30]), "test.jsonl": lines(rows[30:])}
    prompts.unlink()
    code, log = again(output)
    assert (code, set(states(log).values())) == (0, {"Same"})
    (told,) = [line for line in log if line.get("subject") == "dataset.uri"]
    assert commit in told["message"]


def no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def not_ours(folder: Path) -> None:
    (folder / "manifest.json").write_text("{}")


def of_a_gpu(folder: Path) -> None:
    edit_manifest(folder, lambda d: (d["machine"].update(device="cuda"), d["spec"]["resources"].update(gpusPerNode=1)))


def huge(folder: Path) -> None:
    edit_manifest(folder, lambda d: d["files"].append({"path": "model/x", "sha256": "sha256:x", "bytes": 10**18}))


REFUSALS: dict[str, tuple[Callable[[Path], object], dict[str, Any], int, str]] = {
    "a job that has not finished": (no_manifest, {}, 14, "no manifest.json: a job has begun there and not finished"),
    "an empty folder": (shutil.rmtree, {}, 14, "has no manifest.json: no job has finished there"),
    "a manifest of something else": (not_ours, {}, 14, "is not the manifest of a finished job"),
    "another digest": (lambda _: None, {"digest": "sha256:x"}, 14, "and sha256:x was expected; it was changed"),
    "a GPU": (of_a_gpu, {}, 10, "the job ran on a GPU, and none works here; --cpu computes on the CPU"),
    "a full disk": (huge, {}, 31, "bytes of disk besides its model and rows"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_can_not_be_run_again_is_refused_before_anything_is_read(
    name: str,
    output: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    again: Callable[..., tuple[int, Log]],
) -> None:
    change, options, code, words = REFUSALS[name]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    found, log = again(changed_copy(output, tmp_path / "copy", change), **options)
    assert found == code, log
    assert words in message(log)
    assert not [line for line in log if line["event"] == "step_started"]


def test_an_option_without_a_field_is_a_wrong_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", "file:///x/", "--at", "file:///rows.jsonl"])
    assert ended.value.code == 2
    assert "write FIELD=URI" in capsys.readouterr().err
