"""A finished job's folder in a bucket of its own, for tests of what the next job does there."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune_api.names import StageName
from finetune_api.report import StageReport
from finetune_api.runtime import ResolvedStorage, Storage
from tests.support.s3server import S3Server
from tests.support.stage_run import Finished, run
from tests.support.tiny_job import make_stage_input

__all__ = ["Log", "ResultCopy", "flip", "snapshot", "steps"]

Log = list[dict[str, Any]]


class ResultCopy:
    """The output of a job whose model and rows lie in S3; the sources stay where they are.

    Parameters
    ----------
    full
        The job, with two stages.
    bucket
        An empty one, for the copy.
    folder
        Scratch folder.
    keys
        Folder with the credentials of each role.
    """

    def __init__(self, full: Finished, s3: S3Server, bucket: str, folder: Path, keys: Path) -> None:
        self.full, self.s3, self.folder, self.keys = full, s3, folder, keys
        self.out = s3.folder / bucket / "out"
        shutil.copytree(full.output, self.out)
        self.spec: dict[str, Any] = {**full.spec, "output": {"uri": f"s3://{bucket}/out/"}}
        self.sources = str(full.spec["model"]["uri"]).split("/")[2]

    def stage(self, stage: StageName = "prepare", *, uid: str = "uid-2", **changes: Any) -> tuple[StageReport, Log]:
        """Run a stage of a job on the copy; ``changes`` are of the spec, or options of the stage's input."""
        one = Storage(prefix="s3://", endpoint=self.s3.endpoint)
        options = {name: changes.pop(name) for name in ("prepared_digest", "includes_prepare") if name in changes}
        spec = {**self.spec, "output": {**self.spec["output"], **changes.pop("output", {})}, **changes}
        storage = ResolvedStorage(model=one, dataset=one, output=one)
        stage_input = make_stage_input(stage, spec, storage=storage, uid=uid, **options)
        return run(stage_input, self.folder, credentials=self.keys)

    @contextmanager
    def replaced(self, key: str, data: bytes) -> Iterator[None]:
        """Store something else at a source of the job until the block ends."""
        client = self.s3.client()
        original = client.get_object(Bucket=self.sources, Key=key)["Body"].read()
        client.put_object(Bucket=self.sources, Key=key, Body=data)
        try:
            yield
        finally:
            client.put_object(Bucket=self.sources, Key=key, Body=original)


def snapshot(folder: Path) -> dict[str, tuple[str, int]]:
    """Digest and time of change of every file below a folder; its logs are no part of the result."""
    return {
        path.relative_to(folder).as_posix(): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.parent != folder / "logs"
    }


def steps(log: Log) -> set[str]:
    """Names of the steps that a stage has begun."""
    return {line["step"] for line in log if line["event"] == "step_started"}


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
