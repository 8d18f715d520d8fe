"""The demo: from nothing to a measured model, on a real cluster, with a real model and real rows.

Every step prints its time, and a second run reuses what is there. At the end the cluster stays up for a look.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "crds")]

import yaml  # noqa: E402  # the path above comes first

from hack.demo.follow import finished, follow  # noqa: E402
from hack.demo.install import S3Access, Target, ensure_bucket, install_chart, tenant_objects  # noqa: E402
from hack.demo.kube import Kube  # noqa: E402

NAMESPACE: Final = "team-a"
NAME: Final = "support-topic"
MODEL: Final = ("demo-models", "smollm2-135m-instruct/")
ROWS: Final = ("demo-data", "topics.jsonl")
RESULTS: Final = ("demo-results", "support-topic/")
ANSWERED: Final = 8
"""Test rows that the tuned model answers at the end."""


def say(line: str) -> None:
    """Print one line at once."""
    print(line, flush=True)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Print a step's title, and its time when it is done."""
    say(f"--> {title}")
    start = time.monotonic()
    yield
    say(f"    {title}: {time.monotonic() - start:.1f} s")


def make_assets(folder: Path) -> tuple[Path, Path]:
    """Make the model folder and the rows, unless an earlier run left them; returns both paths."""
    model, rows = folder / "smollm2-135m-instruct", folder / "topics.jsonl"
    for program, out in (("make_model.py", model), ("make_rows.py", rows)):
        subprocess.run([sys.executable, str(ROOT / "hack/demo" / program), "--out", str(out)], check=True)
    return model, rows


def upload(s3: S3Access, model: Path, rows: Path) -> None:
    """Put model and rows into the buckets; files that are there with the same size stay."""
    client = s3.client()
    for bucket in (MODEL[0], ROWS[0], RESULTS[0]):
        ensure_bucket(client, bucket)
    there = {
        item["Key"]: item["Size"]
        for item in client.list_objects_v2(Bucket=MODEL[0], Prefix=MODEL[1]).get("Contents", [])
    }
    for path in sorted(p for p in model.iterdir() if p.is_file()):
        if there.get(MODEL[1] + path.name) != path.stat().st_size:
            client.upload_file(str(path), MODEL[0], MODEL[1] + path.name)
    client.upload_file(str(rows), ROWS[0], ROWS[1])


def manifest(kube: Kube) -> dict[str, Any]:
    """The example job; on a cluster without GPUs it asks for none."""
    job: dict[str, Any] = yaml.safe_load((ROOT / "examples/support-topic.yaml").read_text())
    gpus = sum(int(node["status"].get("allocatable", {}).get("nvidia.com/gpu", 0)) for node in kube.list("nodes"))
    if not gpus:
        say("    no node has nvidia.com/gpu, so the job runs with gpusPerNode: 0")
        job["spec"].setdefault("resources", {})["gpusPerNode"] = 0
    return job


def clear_failed(kube: Kube, s3: S3Access) -> None:
    """Remove what a failed or replaced run left, so that the demo starts afresh; a job that succeeded stays."""
    job = kube.get("finetunejob", NAME, NAMESPACE)
    if job is not None:
        if not finished(job) or job["status"]["phase"] == "Succeeded":
            return
        say("    the last run failed; it is removed and started anew")
        kube.kubectl("delete", "finetunejob", NAME, "-n", NAMESPACE, "--cascade=foreground", "--wait")
    client = s3.client()
    for item in client.list_objects_v2(Bucket=RESULTS[0], Prefix=RESULTS[1]).get("Contents", []):
        client.delete_object(Bucket=RESULTS[0], Key=item["Key"])


def classify(s3: S3Access) -> None:
    """Load the tuned model from the bucket with three lines of transformers, and let it answer a few test rows."""
    folder = Path(tempfile.mkdtemp(prefix="finetune-demo-"))
    try:
        client = s3.client()
        prefix = RESULTS[1] + "model/"
        for item in client.list_objects_v2(Bucket=RESULTS[0], Prefix=prefix).get("Contents", []):
            client.download_file(RESULTS[0], item["Key"], str(folder / item["Key"].removeprefix(prefix)))
        program = ROOT / "examples/classify.py"
        predictions = client.get_object(Bucket=RESULTS[0], Key=RESULTS[1] + "predictions.jsonl")["Body"].read().decode()
        said = subprocess.run(
            [sys.executable, str(program), str(folder)],
            input="\n".join(predictions.split("\n")[:ANSWERED]),
            capture_output=True,
            text=True,
            check=True,
        )
        say("    " + said.stdout.strip().replace("\n", "\n    "))
    finally:
        shutil.rmtree(folder)


def main() -> int:
    """Run the demo; returns the exit code."""
    start, target = time.monotonic(), Target.detect()
    with step("model and rows"):
        model, rows = make_assets(Path.home() / ".cache/finetune-demo")
    with step("cluster"):
        kube = target.connect()
    with step("images"):
        images = target.images()
    with step("storage: model and rows into the buckets"):
        s3 = target.s3()
        upload(s3, model, rows)
    with step("operator: helm upgrade --install"):
        install_chart(kube, images, s3, simulated_gpus=not target.own_cluster)
    with step("tenant: namespace with restricted Pod Security, credentials"):
        kube.apply(*tenant_objects(NAMESPACE, s3, secret="team-a-s3"))  # noqa: S106  # a name, not a secret
        clear_failed(kube, s3)
    with step(f"job: kubectl apply -f examples/{NAME}.yaml"):
        kube.apply(manifest(kube))
        job = follow(kube, NAMESPACE, NAME, say=say)
    if job["status"]["phase"] == "Succeeded":
        with step("the tuned model, loaded from the bucket, answers test rows"):
            classify(s3)
    say("\n" + kube.kubectl("get", "ftj", NAME, "-n", NAMESPACE).rstrip())
    say(f"\nAll of it took {time.monotonic() - start:.0f} s. The cluster stays up. To look further:\n")
    say(f"    export KUBECONFIG={kube.kubeconfig}")
    say(f"    {kube.kubectl_path} get ftj -A -o wide")
    say(f"    {kube.kubectl_path} describe ftj {NAME} -n {NAMESPACE}")
    if not target.own_cluster:
        say('    eval "$(hack/devcluster/devcluster s3)"   # then any S3 client: the results are in')
    say(f"    s3://{RESULTS[0]}/{RESULTS[1]}   results.json, predictions.jsonl, README.md, model/")
    if not target.own_cluster:
        say("    make cluster-down                         # ends it")
    return 0 if job["status"]["phase"] == "Succeeded" else 1


if __name__ == "__main__":
    sys.exit(main())
