"""Serves an example's model and rows from a local S3 server or hub, and runs its job.yaml as it stands.

The buckets are those that the jobs name. The models are tiny and have random weights: what a test sees is that the job
is accepted, runs, is scored and stored; that it learns is seen of the T5 alone, whose rows are made for it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import yaml
from pyarrow import parquet

from finetune_api.kube_yaml import dump_yaml
from finetune_api.report import StageReport
from finetune_api.runtime import ResolvedStorage, Storage
from finetune_api.uris import hub_rows
from finetune_trainer.job.input import local_input
from tests.support.hubserver import HubServer
from tests.support.s3server import S3Server
from tests.support.stage_run import run
from tests.support.tiny_model import make_model
from tests.support.tiny_seq2seq import make_encoder_decoder

__all__ = ["EXAMPLES", "HUB_MODELS", "MODELS", "NAMES", "Examples"]

EXAMPLES: Final = Path(__file__).resolve().parents[2] / "examples"
NAMES: Final = tuple(sorted(path.parent.name for path in EXAMPLES.glob("*/job.yaml")))
NOT_SERVED: Final = {"README.md"}
"""Files of a folder that are read by people; jobs are not served either."""


def _tiny_chat_model(folder: Path) -> None:
    """A tiny Llama whose window holds the longest prompt of an example."""
    make_model(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))


MODELS: Final[dict[str, Callable[[Path], None]]] = {"smollm2-135m-instruct": _tiny_chat_model}
"""What stands for each model of the bucket that an example names, by the last part of its URI."""
HUB_MODELS: Final[dict[str, Callable[[Path], None]]] = {
    "google/flan-t5-small": lambda folder: make_encoder_decoder(folder, "t5-untied", calm=True)
}
"""What stands for each model of the hub: it learns its example from the start, so that a score can be seen to rise."""


@dataclass(frozen=True)
class Examples:
    """Buckets and hub that hold what the examples need; ``folder`` is scratch space."""

    s3: S3Server
    hub: HubServer
    folder: Path

    def serve_models(self, real: Mapping[str, Path] | None = None) -> None:
        """Make buckets and hub, and put the models there: the folders of ``real``, tiny ones in place of the others."""
        for bucket in ("demo-models", "demo-data", "demo-results"):
            self.s3.make_bucket(bucket)
        folders = dict(real or {})
        for name in MODELS.keys() - folders.keys():
            folders[name] = self.folder / name
            MODELS[name](folders[name])
        for name, folder in folders.items():
            self._upload(folder, "demo-models", f"{name}/")
        for repo, make in HUB_MODELS.items():
            folder = self.folder / "hub" / repo
            make(folder)
            self.hub.repos[repo] = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}

    def serve_rows(self, name: str) -> None:
        """Put the files of an example where its job reads them; rows of a hub as Parquet, a file a split."""
        spec = yaml.safe_load((EXAMPLES / name / "job.yaml").read_text(encoding="utf-8"))["spec"]
        if (place := hub_rows(spec["dataset"].get("uri", ""))) is not None:
            self.hub.repos[f"datasets/{place.repo}"] = {
                f"data/{path.stem}-00000-of-00001.parquet": _parquet(path) for path in (EXAMPLES / name).glob("*.jsonl")
            }
        self._upload(EXAMPLES / name, "demo-data", f"{name}/")

    def run(
        self, name: str, scratch: Path, *, file: str = "job.yaml", change: dict[str, Any] | None = None
    ) -> StageReport:
        """Run a job of the folder ``name``, which is read as it stands first; ``change`` is laid over its blocks.

        ``scratch`` takes the pod's files and must be new.
        """
        self.serve_rows(name)
        path = EXAMPLES / name / file
        stage_input = local_input(path)
        if change is not None:
            stage_input = local_input(_changed(path, scratch, change))
        spec = stage_input.spec
        data = [spec.dataset.uri, *(source.uri for source in spec.dataset.sources or [])]
        storage = ResolvedStorage(
            model=self._storage(spec.model.uri),
            dataset=self._storage(next(uri for uri in data if uri is not None)),
            output=self._storage("s3://"),
        )
        report, _ = run(
            stage_input.model_copy(update={"simulated_gpus": True, "storage": storage}),
            scratch,
            fresh=True,
            credentials=self._credentials(scratch, spec.model.uri),
        )
        return report

    def variables(self) -> dict[str, str]:
        """The environment in which ``finetune-trainer run`` finds both servers."""
        return {
            "AWS_ENDPOINT_URL_S3": self.s3.endpoint,
            "AWS_ACCESS_KEY_ID": self.s3.access_key,
            "AWS_SECRET_ACCESS_KEY": self.s3.secret_key,
            "HF_ENDPOINT": self.hub.endpoint,
        }

    def stored(self, prefix: str) -> set[str]:
        """Names of what lies below a folder of the results."""
        folder = self.s3.folder / "demo-results" / prefix
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}

    def result(self, prefix: str, name: str) -> Path:
        """A file of the results."""
        return self.s3.folder / "demo-results" / prefix / name

    def _upload(self, folder: Path, bucket: str, prefix: str) -> None:
        client = self.s3.client()
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            if path.name not in NOT_SERVED:
                client.upload_file(str(path), bucket, prefix + path.relative_to(folder).as_posix())

    def _storage(self, uri: str) -> Storage:
        if uri.startswith("hf://"):
            return Storage(prefix="hf://", endpoint=self.hub.endpoint)
        return Storage(prefix="s3://", endpoint=self.s3.endpoint)

    def _credentials(self, scratch: Path, model: str) -> Path:
        """Mount the keys of S3 as a pod has them; a model of the public hub has no Secret."""
        keys = {"AWS_ACCESS_KEY_ID": self.s3.access_key, "AWS_SECRET_ACCESS_KEY": self.s3.secret_key}
        for role in ("dataset", "output") if model.startswith("hf://") else ("model", "dataset", "output"):
            folder = scratch / "credentials" / role
            folder.mkdir(parents=True)
            for key, value in keys.items():
                (folder / key).write_text(value)
        return scratch / "credentials"


def _parquet(path: Path) -> bytes:
    """A file of JSON Lines as Parquet."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    data = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), data)
    return data.getvalue()


def _changed(path: Path, scratch: Path, change: dict[str, Any]) -> Path:
    """Write a copy of a job whose blocks have other values."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    for block, values in change.items():
        document["spec"][block] = {**document["spec"].get(block, {}), **values}
    scratch.mkdir(parents=True, exist_ok=True)
    changed = scratch / "job.yaml"
    changed.write_text(dump_yaml(document), encoding="utf-8")
    return changed
