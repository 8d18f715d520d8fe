"""Every reason that the trainer finds, provoked for real: `finetune-trainer stage NAME` as a pod runs it, on real S3.

What counts is what the operator gets to see: the exit code, and the termination message with the reason, the culprit
and the mend. And what it must never get to see: a result, or a manifest in the bucket.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from finetune_api.names import ENV_STAGE_INPUT, ENV_WORK_DIR, StageName
from finetune_api.reasons import REASONS, Reason
from finetune_api.report import StageReport, parse_report
from finetune_api.runtime import ResolvedStorage, Storage
from finetune_trainer.__main__ import main
from finetune_trainer.process.environment import ENV_CREDENTIALS_DIR, ENV_TERMINATION_LOG
from tests.support.s3proxy import full_after, read_only, running_proxy
from tests.support.s3server import S3Server, free_port
from tests.support.tiny_job import job_spec, make_stage_input, topic_rows
from tests.support.tiny_model import make_model
from tests.trainer.conftest import write_keys

NEARER = {
    Reason.ACCESS_DENIED: (
        "Correct AWS_SECRET_ACCESS_KEY in the Secret of",
        "Give the identity of output.credentialsRef",
    ),
    Reason.DATASET_INVALID: (
        "a Jsonl file holds one JSON object a line",
        "give rows with at least two answers",
        "or choose another split.seed",
        "or set the policy to Drop",
    ),
    Reason.DATASET_NOT_FOUND: ("Create the bucket, or correct dataset.uri",),
    Reason.INVALID_SPEC: ("set dataset.template.choices, or a metric over text",),
    Reason.MODEL_NOT_FOUND: ("Create the bucket, or correct model.uri",),
    Reason.STORAGE_UNAVAILABLE: ("The platform team starts the storage",),
}
"""Mends that stand in the place of the table's where what is wrong is known more closely."""


@dataclass
class Pod:
    """A stage as the operator would start it: bucket, Secret and spec, each of which a test may spoil."""

    s3: S3Server
    bucket: str
    folder: Path
    model: Path
    spec: dict[str, Any]
    endpoints: dict[str, str] = field(default_factory=dict)

    def put_rows(self, text: str) -> None:
        self.s3.client().put_object(Bucket=self.bucket, Key="rows.jsonl", Body=text.encode())

    def put_model(self, folder: Path) -> None:
        for path in folder.iterdir():
            self.s3.client().upload_file(str(path), self.bucket, f"model/{path.name}")

    def change_model(self, change: Callable[[Path], object]) -> None:
        copy = self.folder / "changed"
        shutil.copytree(self.model, copy)
        change(copy)
        for item in self.s3.client().list_objects_v2(Bucket=self.bucket, Prefix="model/")["Contents"]:
            self.s3.client().delete_object(Bucket=self.bucket, Key=item["Key"])
        self.put_model(copy)

    def keys(self, role: str, **keys: str) -> None:
        write_keys(self.folder / "keys" / role, **keys)

    def fails(self, stage: StageName = "train") -> tuple[Reason, int, str]:
        """Run the stage, which does the rows too, and return reason, exit code and message of its failure."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self._variables(stage).items():
                patch.setenv(name, value)
            code = main(["stage", stage])
        return self._failure(code)

    def stalls(self, stage: StageName, *, seconds: int) -> tuple[Reason, int, str, list[dict[str, Any]]]:
        """Run the stage as a process of its own, which may end without returning; and return its log too."""
        variables = {"PYTHONPATH": os.pathsep.join(sys.path), **self._variables(stage, stall_seconds=seconds)}
        done = subprocess.run(
            [sys.executable, "-m", "finetune_trainer", "stage", stage],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return (*self._failure(done.returncode), [json.loads(line) for line in done.stderr.splitlines()])

    def _variables(self, stage: StageName, **more: Any) -> dict[str, str]:
        storage = ResolvedStorage(
            **{
                role: Storage(prefix="s3://", endpoint=self.endpoints.get(role, self.s3.endpoint))
                for role in ("model", "dataset", "output")
            }
        )
        document = make_stage_input(stage, self.spec, storage=storage, includes_prepare=stage == "train")
        return {
            ENV_STAGE_INPUT: json.dumps(document.model_copy(update=more).to_wire()),
            ENV_CREDENTIALS_DIR: str(self.folder / "keys"),
            ENV_TERMINATION_LOG: str(self.folder / "termination-log"),
            ENV_WORK_DIR: str(self.folder),
        }

    def _failure(self, code: int) -> tuple[Reason, int, str]:
        report = parse_report((self.folder / "termination-log").read_text())
        assert report is not None
        assert report.failure is not None, report
        self._nothing_half_done(report)
        nearer = NEARER.get(report.failure.reason, ())
        assert report.failure.message.endswith(REASONS[report.failure.reason].mend) or any(
            words in report.failure.message for words in nearer
        )
        assert code == (REASONS[report.failure.reason].exit_code or 1)
        return report.failure.reason, code, report.failure.message

    def _nothing_half_done(self, report: StageReport) -> None:
        assert report.results is None
        assert report.artifacts is None
        assert report.digest is None
        assert not (self.s3.folder / self.bucket / "out/manifest.json").exists()


@pytest.fixture
def pod(s3: S3Server, bucket: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pod]:
    """A stage that would end well; the signal handlers of this process are as before afterwards."""
    # Only the waiting between two attempts is left out.
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    spec = job_spec(
        model=f"s3://{bucket}/model/", rows=f"s3://{bucket}/rows.jsonl", output=f"s3://{bucket}/out/", epochs=1
    )
    pod = Pod(s3=s3, bucket=bucket, folder=tmp_path, model=tiny / "model", spec=spec)
    pod.put_model(tiny / "model")
    pod.put_rows(as_lines(topic_rows(60)))
    for role in ("model", "dataset", "output"):
        pod.keys(role, AWS_ACCESS_KEY_ID=s3.access_key, AWS_SECRET_ACCESS_KEY=s3.secret_key)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield pod
    for number, handler in before.items():
        signal.signal(number, handler)


def as_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_a_template_that_names_an_unknown_column_is_template_invalid(pod: Pod) -> None:
    pod.spec["dataset"]["template"]["columns"] = {"text": "utterance"}
    reason, code, message = pod.fails("prepare")
    assert (reason, code) == (Reason.TEMPLATE_INVALID, 16)
    assert "'utterance'" in message


def test_a_row_that_is_no_json_is_named_by_its_line(pod: Pod) -> None:
    lines = as_lines(topic_rows(12)).splitlines()
    lines[6] = '{"text": "a", '
    pod.put_rows("\n".join(lines))
    reason, code, message = pod.fails("prepare")
    assert (reason, code) == (Reason.DATASET_INVALID, 11)
    assert "line 7" in message


def test_an_empty_file_is_dataset_invalid(pod: Pod) -> None:
    pod.put_rows("")
    reason, code, message = pod.fails("prepare")
    assert (reason, code) == (Reason.DATASET_INVALID, 11)
    assert "has no rows" in message


def test_rows_with_one_label_only_are_dataset_invalid(pod: Pod) -> None:
    del pod.spec["dataset"]["template"]["choices"]
    del pod.spec["dataset"]["split"]["stratifyBy"]
    pod.put_rows(as_lines([{**row, "label": "billing"} for row in topic_rows(60)]))
    reason, code, message = pod.fails("prepare")
    assert (reason, code) == (Reason.DATASET_INVALID, 11)
    assert "'billing'" in message
    assert "at least two" in message


def test_too_few_rows_for_three_parts_are_dataset_invalid_and_the_empty_part_is_named(pod: Pod) -> None:
    pod.put_rows(as_lines(topic_rows(2)))
    reason, code, message = pod.fails("prepare")
    assert (reason, code) == (Reason.DATASET_INVALID, 11)
    assert "no row fell into" in message


def test_messages_for_a_model_without_a_chat_template_are_template_invalid(pod: Pod) -> None:

    def plain(copy: Path) -> None:
        shutil.rmtree(copy)
        make_model(copy, chat=False)

    pod.change_model(plain)
    pod.spec["dataset"]["template"] = {"name": "messages"}
    del pod.spec["dataset"]["split"]["stratifyBy"]
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    pod.put_rows(as_lines([{"messages": turns}] * 4))
    reason, code, message = pod.fails("prepare")
    assert (reason, code) == (Reason.TEMPLATE_INVALID, 16)
    assert "chat template" in message


@pytest.mark.parametrize(
    ("policy", "words"), [({"policy": "Fail"}, "badRows.policy Fail"), ({"policy": "Drop"}, "badRows.maxPercent 5")]
)
def test_answers_that_are_too_long_are_bad_rows_and_the_policy_decides(
    pod: Pod, policy: dict[str, str], words: str
) -> None:
    pod.spec["dataset"] |= {"template": {"name": "qa"}, "badRows": policy, "split": {}}
    pod.spec["training"]["maxLength"] = 64
    rows = [{"context": "c", "question": f"q{i}", "answer": "yes"} for i in range(40)]
    for row in rows[::8]:
        row["answer"] = "word " * 200
    pod.put_rows(as_lines(rows))
    reason, code, message = pod.fails("prepare")
    assert (reason, code) == (Reason.DATASET_INVALID, 11)
    assert "training.maxLength 64" in message
    assert words in message


def test_an_endpoint_that_nobody_listens_at_is_storage_unavailable(pod: Pod) -> None:
    pod.endpoints["dataset"] = f"http://127.0.0.1:{free_port()}"
    reason, code, message = pod.fails("prepare")
    assert (reason, code) == (Reason.STORAGE_UNAVAILABLE, 30)
    assert f"s3://{pod.bucket}/rows.jsonl" in message


def test_a_stage_that_gets_no_further_ends_as_stalled_and_names_the_step(pod: Pod) -> None:
    over = threading.Event()

    def silent(_method: str, path: str) -> None:
        if "rows.jsonl" in path:
            over.wait(120)

    with running_proxy(pod.s3) as proxy:
        proxy.refuse = silent
        pod.endpoints["dataset"] = proxy.endpoint
        try:
            reason, code, message, log = pod.stalls("prepare", seconds=3)
        finally:
            over.set()
    assert (reason, code) == (Reason.STALLED, 33)
    assert message.startswith("no sign of progress for 3 s, in step fetch_rows.")
    (stalled,) = [line for line in log if line["event"] == "stalled"]
    assert "fetch_dataset" in stalled["threads"]["MainThread"]  # the function that waits, for whoever mends it


def test_a_wrong_key_is_access_denied(pod: Pod) -> None:
    pod.keys("dataset", AWS_SECRET_ACCESS_KEY="canary-of-a-wrong-key")
    reason, code, message = pod.fails("prepare")
    assert (reason, code) == (Reason.ACCESS_DENIED, 12)
    assert f"s3://{pod.bucket}/rows.jsonl (dataset.uri)" in message
    assert "canary" not in message


def test_a_secret_with_an_empty_key_is_credentials_not_found(pod: Pod) -> None:
    pod.keys("output", AWS_SECRET_ACCESS_KEY="")
    reason, code, message = pod.fails("prepare")
    assert (reason, code) == (Reason.CREDENTIALS_NOT_FOUND, 21)
    assert "output.credentialsRef" in message


@pytest.mark.parametrize(
    ("role", "field", "expected"),
    [
        ("dataset", "uri", (Reason.DATASET_NOT_FOUND, 15)),
        ("model", "uri", (Reason.MODEL_NOT_FOUND, 17)),
        ("output", "uri", (Reason.OUTPUT_NOT_FOUND, 23)),
    ],
)
def test_a_missing_bucket_is_named(pod: Pod, role: str, field: str, expected: tuple[Reason, int]) -> None:
    pod.spec[role][field] = pod.spec[role][field].replace(f"//{pod.bucket}/", "//no-such-bucket/")
    reason, code, message = pod.fails("prepare")
    assert (reason, code) == expected
    assert (
        f"({role}.{field}): there is no bucket 'no-such-bucket'. Create the bucket, or correct {role}.{field}."
        in message
    )


def test_a_missing_file_of_rows_is_dataset_not_found(pod: Pod) -> None:
    pod.s3.client().delete_object(Bucket=pod.bucket, Key="rows.jsonl")
    reason, code, message = pod.fails("prepare")
    assert (reason, code) == (Reason.DATASET_NOT_FOUND, 15)
    assert f"s3://{pod.bucket}/rows.jsonl" in message


def with_config(folder: Path, **entries: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **entries}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda copy: (copy / "model.safetensors").rename(copy / "pytorch_model.bin"), "pytorch_model.bin"),
        (lambda copy: with_config(copy, model_type="evil", auto_map={"AutoConfig": "evil.Config"}), "auto_map"),
    ],
    ids=["pickled weights", "code of its own"],
)
def test_a_model_that_would_run_code_is_unsafe(pod: Pod, change: Callable[[Path], object], words: str) -> None:
    pod.change_model(change)
    reason, code, message = pod.fails("prepare")
    assert (reason, code) == (Reason.UNSAFE_MODEL, 13)
    assert words in message


def test_weights_that_are_cut_short_are_model_invalid(pod: Pod) -> None:
    pod.change_model(lambda copy: (copy / "model.safetensors").write_bytes(b"\x08"))
    reason, code, _ = pod.fails()
    assert (reason, code) == (Reason.MODEL_INVALID, 18)


def test_gradients_that_overflow_are_diverged_and_the_step_is_named(pod: Pod) -> None:
    """The head is 1e20 times as large and what it reads 1e-20 times: the same answers, gradients beyond 32 bits."""

    def overflow(copy: Path) -> None:
        shutil.rmtree(copy)
        make_model(copy, architecture="llama-untied")
        weights = load_file(copy / "model.safetensors")
        weights["lm_head.weight"] *= 1e20
        weights["model.norm.weight"] *= 1e-20
        save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})

    pod.change_model(overflow)
    reason, code, message = pod.fails()
    assert (reason, code) == (Reason.DIVERGED, 20)
    assert "at step 1 of" in message
    assert "training.learningRate 1e-2" in message


def test_an_output_folder_with_files_of_nobody_is_output_exists(pod: Pod) -> None:
    pod.s3.client().put_object(Bucket=pod.bucket, Key="out/mine.txt", Body=b"precious")
    reason, code, message = pod.fails("prepare")
    assert (reason, code) == (Reason.OUTPUT_EXISTS, 19)
    assert "mine.txt" in message
    assert pod.s3.client().get_object(Bucket=pod.bucket, Key="out/mine.txt")["Body"].read() == b"precious"


def test_an_output_that_may_only_be_read_is_access_denied_before_anything_is_trained(pod: Pod) -> None:
    with running_proxy(pod.s3) as proxy:
        proxy.refuse = read_only
        pod.endpoints["output"] = proxy.endpoint
        reason, code, message = pod.fails("prepare")
    assert (reason, code) == (Reason.ACCESS_DENIED, 12)
    assert "output.uri" in message
    assert proxy.refused == [f"PUT /{pod.bucket}/out/owner.json"]


@pytest.mark.parametrize("word", ["model.safetensors", "results.json", "manifest.json"])
def test_a_storage_that_is_full_in_the_middle_is_a_failed_upload(pod: Pod, word: str) -> None:
    with running_proxy(pod.s3) as proxy:
        proxy.refuse = full_after(f"out/{'model/' * word.startswith('model')}{word}")
        pod.endpoints["output"] = proxy.endpoint
        reason, code, message = pod.fails()
    assert (reason, code) == (Reason.ARTIFACT_UPLOAD_FAILED, 31)
    assert "InsufficientStorage" in message
    assert (pod.s3.folder / pod.bucket / "out/owner.json").exists()


def test_a_stored_file_that_is_damaged_before_it_is_read_back_is_verification_failed(pod: Pod) -> None:
    """The storage takes the weights, and gives other ones back."""
    path = pod.s3.folder / pod.bucket / "out/model/model.safetensors"

    with running_proxy(pod.s3) as proxy:

        def damage(method: str, url: str) -> None:
            if method == "GET" and "out/model/model.safetensors" in url and path.exists():
                path.write_bytes(path.read_bytes()[:-1] + b"\xff")

        proxy.refuse = damage
        pod.endpoints["output"] = proxy.endpoint
        reason, code, message = pod.fails()
    assert (reason, code) == (Reason.VERIFICATION_FAILED, 14)
    assert "model/model.safetensors" in message


def test_a_spec_that_contradicts_itself_is_invalid(pod: Pod) -> None:
    """What only the rows show: accuracy over choices was asked for, and there are none."""
    pod.spec["evaluation"] = {"metric": "ChoiceAccuracy"}
    pod.spec["dataset"]["template"] = {"inline": {"prompt": "{{ question }}", "completion": "{{ answer }}"}}
    pod.spec["dataset"]["split"] = {}
    pod.put_rows(as_lines([{"question": f"q {i}", "answer": f"a {i}"} for i in range(60)]))
    reason, code, message = pod.fails("prepare")
    assert (reason, code) == (Reason.INVALID_SPEC, 10)
    assert "evaluation.metric" in message


def test_a_gpu_that_is_not_there_is_a_trainer_error(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    pod.spec["resources"]["gpusPerNode"] = 1
    reason, code, message = pod.fails()
    assert (reason, code) == (Reason.TRAINER_ERROR, 1)
    assert "resources.gpusPerNode" in message
