"""A job loads the client of a storage only where a URI asks for it: seconds and memory that every other job saves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FETCH = """
import json, sys
from pathlib import Path
sys.path[:0] = json.loads(sys.argv[1])
from finetune_api.job import Dataset, Model
from finetune_api.runtime import ResolvedStorage, Storage
from finetune_trainer.errors import StageError
from finetune_trainer.process.console import no_progress
from finetune_trainer.storage.access import Access
from finetune_trainer.storage.fetch import fetch_model
from finetune_trainer.storage.rows import fetch_dataset
here, uri = Path(sys.argv[2]), sys.argv[3]
(here / "config.json").write_text("{}")
(here / "model.safetensors").write_text("")
(here / "rows.jsonl").write_text("{}")
one = Storage(prefix="s3://", endpoint="http://127.0.0.1:9")
access = Access(storage=ResolvedStorage(model=one), credentials_dir=here, scratch=here, max_attempts=1)
fields = {"uri": f"file://{here}/rows.jsonl", "template": {"name": "topic"}}
spec = Dataset.model_validate(fields, context={"local": True})
fetch_dataset(spec, access=access, folder=here / "got", progress=no_progress)
access.open("output", f"file://{here}/out/").put_bytes("a", b"")
try:
    model = Model.model_validate({"uri": uri}, context={"local": True})
    fetch_model(model, access=access, folder=here / "m", progress=no_progress)
except StageError:
    pass
print(json.dumps(sorted(sys.modules)))
"""


def loaded_by(folder: Path, uri: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", FETCH, json.dumps(sys.path), str(folder), uri],
        capture_output=True,
        text=True,
        check=True,
        env={"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "PATH": ""},
    )
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("scheme", "absent"),
    [
        ("file", {"boto3", "botocore", "finetune_trainer.storage.hub", "huggingface_hub", "httpx2"}),
        ("s3", {"finetune_trainer.storage.hub", "huggingface_hub", "httpx2"}),
    ],
)
def test_a_job_loads_only_the_clients_that_its_uris_need(scheme: str, absent: set[str], tmp_path: Path) -> None:
    loaded = loaded_by(tmp_path, f"file://{tmp_path}" if scheme == "file" else "s3://bucket/model/")
    assert "finetune_trainer.storage.fetch" in loaded
    assert ("boto3" in loaded) == (scheme == "s3")
    assert not absent & loaded


def test_the_room_of_results_fetches_nothing() -> None:
    code = (
        "import importlib, json, pkgutil, sys; sys.path[:0] = json.loads(sys.argv[1]);"
        "import finetune_trainer.output as o;"
        "[importlib.import_module(m.name) for m in pkgutil.iter_modules(o.__path__, 'finetune_trainer.output.')];"
        "print([m for m in sys.modules if m in ('finetune_trainer.storage.fetch', 'finetune_trainer.storage.hub')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(sys.path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
