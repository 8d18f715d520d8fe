"""The command line: exit codes, what goes to which stream, and how a pod ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_api.kube_yaml import dump_yaml
from finetune_api.names import ENV_STAGE_INPUT
from finetune_api.reasons import EXIT_RESUMABLE
from finetune_api.report import parse_report
from finetune_trainer.__main__ import main
from finetune_trainer.process.environment import ENV_CREDENTIALS_DIR, ENV_TERMINATION_LOG
from tests.support.tiny_job import job_document, job_spec, make_stage_input

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def places(tiny: Path, tmp_path: Path) -> dict[str, str]:
    return {
        "model": f"file://{tiny}/model/",
        "rows": f"file://{tiny}/rows.jsonl",
        "output": f"file://{tmp_path}/out/",
    }


@pytest.fixture
def job(places: dict[str, str], tmp_path: Path) -> Callable[..., Path]:
    def write(change: Callable[[dict[str, Any]], object] = lambda _: None) -> Path:
        document = job_document(**places, epochs=1)
        change(document["spec"])
        path = tmp_path / "job.yaml"
        path.write_text(dump_yaml(document))
        return path

    return write


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The places of a pod, below a folder; SIGTERM is as before afterwards."""
    monkeypatch.setenv(ENV_CREDENTIALS_DIR, str(tmp_path / "keys"))
    monkeypatch.setenv(ENV_TERMINATION_LOG, str(tmp_path / "termination-log"))
    monkeypatch.setenv("FINETUNE_WORK_DIR", str(tmp_path))
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(signal, "signal", lambda *_: before)
    return tmp_path


def process(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    path = os.pathsep.join(str(ROOT / part) for part in ("crds", "trainer_image"))
    return subprocess.Popen(
        # As from a terminal: a shell that runs tests in its background has Ctrl-C ignored in all that it starts.
        ["env", "--default-signal=INT", sys.executable, "-m", "finetune_trainer", *arguments],
        env={**os.environ, "PYTHONPATH": path, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_run_in_a_pipe_writes_json_lines_only_and_ends_with_0(job: Callable[..., Path], tmp_path: Path) -> None:
    running = process("run", str(job()))
    out, err = running.communicate(timeout=300)
    assert running.returncode == 0, err
    assert out == ""
    events = [json.loads(line)["event"] for line in err.splitlines()]
    assert (events[0], events[-1]) == ("step_started", "result")
    assert json.loads(err.splitlines()[-1])["results"]["test"]["total"] > 0
    assert (tmp_path / "out/manifest.json").exists()


def test_the_same_file_run_again_takes_its_result_and_says_so(
    job: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(job())]) == 0
    assert "reused" not in capfd.readouterr().err
    assert main(["run", str(job())]) == 0
    assert "reused the complete result" in capfd.readouterr().err


def test_an_edited_file_does_not_overwrite_the_earlier_result(job: Callable[..., Path]) -> None:
    assert main(["run", str(job())]) == 0
    assert main(["run", str(job(lambda spec: spec["training"].update(seed=8)))]) == 19


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda spec: spec["training"].update(epochs=0), 10),
        (lambda spec: spec["dataset"]["template"].update(columns={"text": "none"}), 16),
        (lambda spec: spec["dataset"].update(uri="file:///nowhere/rows.jsonl"), 15),
        (lambda spec: spec["model"].update(uri="file:///nowhere/"), 17),
    ],
)
def test_a_run_ends_with_the_code_of_its_reason(
    change: Callable[[dict[str, Any]], object], code: int, job: Callable[..., Path]
) -> None:
    assert main(["run", str(job(change))]) == code


def test_cpu_wins_over_the_gpus_of_the_spec(job: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    path = job(lambda spec: spec["resources"].update(gpusPerNode=1))
    assert main(["run", "--cpu", str(path)]) == 0


def test_a_gpu_that_is_not_there_is_told_before_anything_is_prepared(
    job: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["run", str(job(lambda spec: spec.pop("resources")))]) == 10
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        json.loads(line)["message"]
        == (
            "InvalidSpec: resources.gpusPerNode is 1 (1 where it is left out), and no GPU works here; use --cpu, or "
            "resources.gpusPerNode: 0. "
        ).rstrip()
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("write", "end"),
    [
        (lambda path: path.unlink(), "No such file or directory; name the YAML file of a FineTuneJob."),
        (lambda path: path.write_text("a: ["), "; correct it there."),
        (
            lambda path: path.write_text("kind: FineTuneJob"),
            ". Correct the named field and run it again.",
        ),
        (lambda path: path.write_text("- 1"), "a local run needs exactly one."),
    ],
)
@pytest.mark.parametrize("command", ["run", "render"])
def test_the_mend_of_a_local_error_needs_no_cluster(
    command: str,
    write: Callable[[Path], object],
    end: str,
    job: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = job()
    write(path)
    assert main([command, str(path)]) == 10
    assert end in " ".join(capsys.readouterr().err.split())


def test_the_mend_of_an_error_within_a_local_run_needs_no_cluster(
    job: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(job(lambda spec: spec["dataset"]["split"].update(stratifyBy="none")))]) == 10
    assert "Correct the named field and run it again." in capsys.readouterr().err


def test_a_person_gets_a_table_with_both_scores(
    job: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert main(["run", str(job())]) == 0
    shown = capsys.readouterr().err
    assert "{" not in shown.splitlines()[-8]
    for word in ("before", "after", "gain", "McNemar", "file://"):
        assert word in shown


def test_render_shows_prompt_and_completion_on_standard_output(
    job: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["render", str(job(lambda spec: spec["output"].clear())), "--rows", "2"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("--- prompt") == shown.count("--- completion") == 2
    assert "Topic:" in shown


def test_render_needs_neither_torch_nor_the_model(job: Callable[..., Path]) -> None:
    program = (
        "import sys; from finetune_trainer.__main__ import main; code = main(sys.argv[1:]);"
        "sys.exit(code or ('torch' in sys.modules) * 2 + ('transformers' in sys.modules) * 4)"
    )
    path = job(lambda spec: spec["model"].update(uri="file:///nowhere/"))
    variables = {"PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("crds", "trainer_image"))}
    done = subprocess.run(
        [sys.executable, "-c", program, "render", str(path)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_render_names_a_wrong_column(job: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = job(lambda spec: spec["dataset"]["template"].update(columns={"text": "none"}))
    assert main(["render", str(path)]) == 16
    assert "none" in capsys.readouterr().err


def test_a_pod_leaves_its_report_as_termination_message(
    pod: Path, places: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = make_stage_input("prepare", job_spec(**places)).model_dump_json(by_alias=True)
    monkeypatch.setenv(ENV_STAGE_INPUT, text)
    # file:// is no place for a pod, and the contract says so before anything is read.
    assert main(["stage", "prepare"]) == 10
    report = parse_report((pod / "termination-log").read_text())
    assert report is not None
    assert report.failure is not None
    assert "model.uri" in report.failure.message


def test_a_pod_without_an_input_reports_that(pod: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENV_STAGE_INPUT, raising=False)
    assert main(["stage", "train"]) == 10
    report = parse_report((pod / "termination-log").read_text())
    assert report is not None
    assert report.failure is not None
    assert ENV_STAGE_INPUT in report.failure.message


def test_a_stage_in_a_pod_ends_at_once_when_it_is_told_to(tmp_path: Path) -> None:
    """As PID 1 would: SIGTERM has to be handled, and must not wait for a transfer that hangs."""
    with socket.socket() as silent:  # accepts, and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        spec = job_spec(model="s3://bucket/m/", rows="s3://bucket/r.jsonl", output="s3://bucket/out/")
        one = {"prefix": "s3://", "endpoint": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        document = {
            **make_stage_input("prepare", spec).to_wire(),
            "storage": {"model": one, "dataset": one, "output": one},
        }
        running = process(
            "stage",
            "prepare",
            **{
                ENV_STAGE_INPUT: json.dumps(document),
                ENV_TERMINATION_LOG: str(tmp_path / "termination-log"),
                "FINETUNE_WORK_DIR": str(tmp_path),
                "AWS_ACCESS_KEY_ID": "x",
                "AWS_SECRET_ACCESS_KEY": "y",
            },
        )
        silent.settimeout(120)
        connection, _ = silent.accept()
        with connection:  # the request is under way
            begin = time.monotonic()
            running.terminate()
            _, err = running.communicate(timeout=60)
    assert running.returncode == EXIT_RESUMABLE
    assert time.monotonic() - begin < 20
    assert json.loads(err.splitlines()[-1])["event"] == "interrupted"
    assert not (tmp_path / "termination-log").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, EXIT_RESUMABLE), (signal.SIGINT, 130)])
def test_a_run_that_is_told_to_stop_saves_its_state_and_one_that_a_person_breaks_off_does_not(
    number: signal.Signals, code: int, job: Callable[..., Path], tmp_path: Path
) -> None:
    running = process("run", str(job(lambda spec: spec["training"].update(epochs=100))))
    assert running.stderr is not None
    for line in running.stderr:
        if json.loads(line)["event"] == "train":
            break
    running.send_signal(number)
    running.communicate(timeout=120)
    assert running.returncode == code
    saved = list((tmp_path / "out/checkpoints").glob("*-001-*/manifest.json"))
    assert len(saved) == (number is signal.SIGTERM)
