"""What an end-to-end test does to the cluster, in the words that the tests use."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from finetune_api.names import LABEL_JOB_NAME, LABEL_JOB_UID, LABEL_STAGE
from hack.demo.follow import finished
from hack.demo.install import OPERATOR_NAMESPACE, Images, S3Access, tenant_objects
from hack.demo.kube import ROOT, CommandError, Kube

T = TypeVar("T")
RELEASE = "finetune-operator"
OPERATOR = f"deployment/{RELEASE}"
SECRET = "tenant-s3"
WORDS = {"north": "cold", "south": "warm", "east": "dawn", "west": "dusk"}


def until(what: str, check: Callable[[], T | None], *, timeout: float, pause: float = 0.5) -> T:
    """Poll until ``check`` returns something true; the error says what was awaited."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if value := check():
            return value
        time.sleep(pause)
    raise AssertionError(f"{what}: not within {timeout:.0f} s")


def numbers(results: dict[str, Any]) -> dict[str, Any]:
    """The scores of both models, and how they compare: what status always has of results.json, whatever the room."""
    scores = {which: {k: v for k, v in results[which].items() if k != "secondary"} for which in ("baseline", "test")}
    return scores | {key: results[key] for key in ("metric", "gain", "pValue", "pairedTest")}


def rows(count: int = 120) -> str:
    """A rule that a tiny model can learn, as JSON lines."""
    lines = [
        {"text": f"{word} {number % 10} {number // 10}", "label": WORDS[word]}
        for number in range(count // len(WORDS))
        for word in WORDS
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``base`` with ``changes`` laid over it, mappings key by key."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


class PodWatch:
    """Records every pod of every FineTuneJob, so that a doubled one can't hide between two looks."""

    def __init__(self, kube: Kube) -> None:
        self._process = kube.popen(
            "get", "pods", "-A", "-l", LABEL_JOB_UID, "--watch", "--output-watch-events", "-o", "json"
        )
        self._alive: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._doubled: list[str] = []
        self.started: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        decoder, buffer = json.JSONDecoder(), ""
        for line in self._process.stdout:
            buffer += line
            with contextlib.suppress(ValueError):
                while buffer.strip():
                    event, end = decoder.raw_decode(buffer.lstrip())
                    buffer = buffer.lstrip()[end:]
                    self._see(event["type"], event["object"])

    def _see(self, kind: str, pod: dict[str, Any]) -> None:
        labels, uid = pod["metadata"]["labels"], pod["metadata"]["uid"]
        key = (labels[LABEL_JOB_UID], labels[LABEL_STAGE])
        self.started[key].add(uid)
        if kind == "DELETED" or pod["status"].get("phase") in ("Succeeded", "Failed"):
            self._alive[key].discard(uid)
        else:
            self._alive[key].add(uid)
            if sum(len(uids) for (job, _), uids in self._alive.items() if job == key[0]) > 1:
                self._doubled.append(f"job {key[0]} had {dict(self._alive)} at once")

    def doubled(self) -> list[str]:
        """Descriptions of moments with more than one live pod of a job."""
        return self._doubled

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._thread.join(timeout=10)
        assert self._process.stdout is not None
        self._process.stdout.close()


@dataclass
class Tenant:
    """A namespace with restricted Pod Security and a Secret with S3 credentials."""

    world: World
    namespace: str
    since: str
    """When it was made; the operator's log from then on is the test's."""

    def put_rows(self, text: str | None = None, name: str = "rows.jsonl") -> str:
        """Upload rows and return their URI."""
        key = f"{self.namespace}/{name}"
        self.world.s3.client().put_object(Bucket="e2e-data", Key=key, Body=(rows() if text is None else text).encode())
        return f"s3://e2e-data/{key}"

    def job(self, name: str = "tiny", **spec: Any) -> dict[str, Any]:
        """A manifest that works; keyword arguments replace blocks of its spec."""
        secret = {"name": SECRET}
        base = {
            "model": {"uri": self.world.model_uri, "credentialsRef": secret},
            "dataset": {
                "uri": f"s3://e2e-data/{self.namespace}/rows.jsonl",
                "credentialsRef": secret,
                "template": {"name": "topic", "columns": {"text": "text", "label": "label"}},
            },
            "training": {"method": "Full", "epochs": 2, "learningRate": "3e-3", "batchSize": 8, "maxLength": 256},
            "output": {"uri": f"s3://e2e-results/{self.namespace}/{name}/", "credentialsRef": secret},
            "backoffLimit": 1,
        }
        return {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {**base, **spec},
        }

    def apply(self, *manifests: dict[str, Any]) -> None:
        self.world.kube.apply(*manifests)

    def patch(self, name: str, **spec: Any) -> None:
        """Edit a job's spec, as ``kubectl patch`` does."""
        patch = json.dumps({"spec": spec})
        self.world.kube.kubectl("patch", "ftj", name, "-n", self.namespace, "--type=merge", "-p", patch)

    def raise_deadline(self, name: str, seconds: int) -> None:
        """Raise a job's deadline and wait until its child has it: by then the operator has looked at the job anew."""
        self.patch(name, activeDeadlineSeconds=seconds)

        def raised() -> bool:
            children = self.jobs(name)
            return bool(children) and all(job["spec"]["activeDeadlineSeconds"] == seconds for job in children)

        until(f"the child of {name} has the new deadline", raised, timeout=60, pause=1)

    def delete(self, kind: str, name: str, *options: str) -> None:
        self.world.kube.kubectl("delete", kind, name, "-n", self.namespace, *(options or ["--wait=false"]))

    def get(self, name: str = "tiny") -> dict[str, Any]:
        found = self.world.kube.get("finetunejob", name, self.namespace)
        assert found is not None, f"FineTuneJob {name} is gone"
        return found

    def status(self, name: str = "tiny") -> dict[str, Any]:
        return dict(self.get(name).get("status", {}))

    def condition(self, kind: str, name: str = "tiny") -> dict[str, Any]:
        return next((dict(c) for c in self.status(name).get("conditions", []) if c["type"] == kind), {})

    def wait_finished(self, name: str = "tiny", timeout: float = 300) -> dict[str, Any]:
        until(f"{self.namespace}/{name} has finished", lambda: finished(self.get(name)), timeout=timeout, pause=1)
        return self.get(name)

    def wait_phase(self, phase: str, name: str = "tiny", timeout: float = 120) -> None:
        until(f"{name} is {phase}", lambda: self.status(name).get("phase") == phase, timeout=timeout)

    def read(self, name: str, file: str) -> str:
        """A file of the job's output."""
        key = f"{self.namespace}/{name}/{file}"
        return self.world.s3.client().get_object(Bucket="e2e-results", Key=key)["Body"].read().decode()

    def holds(self, name: str, file: str) -> bool:
        """Tell whether a file of the job's output exists."""
        found = self.world.s3.client().list_objects_v2(Bucket="e2e-results", Prefix=f"{self.namespace}/{name}/{file}")
        return bool(found.get("KeyCount"))

    def pods(self, name: str | None = None) -> list[dict[str, Any]]:
        """Pods of all FineTuneJobs here, or of one."""
        return self.world.kube.list("pods", self.namespace, _selector(name))

    def jobs(self, name: str | None = None) -> list[dict[str, Any]]:
        """Child Jobs of all FineTuneJobs here, or of one."""
        return self.world.kube.list("jobs", self.namespace, _selector(name))

    def running_pod(self, name: str = "tiny", timeout: float = 120) -> dict[str, Any]:
        """Wait until a pod of the job runs and return it."""

        def running() -> dict[str, Any] | None:
            alive = [p for p in self.pods(name) if "deletionTimestamp" not in p["metadata"]]
            return next((pod for pod in alive if pod["status"]["phase"] == "Running"), None)

        return until(f"a pod of {name} runs", running, timeout=timeout, pause=1)

    def add_secret(self, name: str = SECRET, **keys: str) -> None:
        """Create the Secret with the S3 credentials, some of them replaced."""
        secret = tenant_objects(self.namespace, self.world.s3, secret=name)[1]
        secret["stringData"] |= keys
        self.world.kube.apply(secret)

    def set_quota(self, pods: int) -> None:
        """Allow so many pods in the namespace, and wait until that holds."""
        metadata, hard = {"name": "pods", "namespace": self.namespace}, {"pods": str(pods)}
        quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": hard}}
        self.world.kube.apply(quota)

        def counted() -> bool:
            found = self.world.kube.get("resourcequota", "pods", self.namespace)
            return found is not None and found.get("status", {}).get("hard") == hard

        until("the quota counts", counted, timeout=30)


def _selector(name: str | None) -> str:
    return LABEL_JOB_UID if name is None else f"{LABEL_JOB_NAME}={name}"


@dataclass
class World:
    """The cluster with the installed operator."""

    kube: Kube
    s3: S3Access
    images: Images
    model_uri: str

    def new_tenant(self, test_name: str, *, secret: bool = True) -> Tenant:
        """A fresh namespace named after the test."""
        stem = re.sub(r"[^a-z0-9]+", "-", test_name.lower()).strip("-")[:40].strip("-")
        name = f"{stem}-{int(time.time()) % 100000}"
        objects = tenant_objects(name, self.s3, secret=SECRET)
        self.kube.apply(*(objects if secret else objects[:1]))
        return Tenant(self, name, since=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

    def remove(self, tenant: Tenant) -> None:
        self.kube.kubectl("delete", "namespace", tenant.namespace, "--wait=false")

    @contextlib.contextmanager
    def tenant(self, name: str) -> Iterator[Tenant]:
        """A tenant; afterwards no pod may have been doubled and the operator may have logged no surprise."""
        tenant = self.new_tenant(name)
        with self.watching_pods() as pods:
            yield tenant
        surprises = self.unexpected_log_lines(tenant)
        self.remove(tenant)
        assert pods.doubled() == [], pods.doubled()
        assert surprises == [], surprises

    @contextlib.contextmanager
    def runtime(self, name: str, *, like: str = "default", **changes: Any) -> Iterator[str]:
        """A FineTuneRuntime like another one but for ``changes``, laid over its spec; removed afterwards."""
        self.add_runtime(name, like=like, **changes)
        try:
            yield name
        finally:
            self.kube.kubectl("delete", "finetuneruntime", name, "--ignore-not-found")

    def add_runtime(self, name: str, *, like: str = "default", **changes: Any) -> None:
        """The same without the removal."""
        model = self.kube.get("finetuneruntime", like)
        assert model is not None
        runtime = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneRuntime", "metadata": {"name": name}}
        self.kube.apply({**runtime, "spec": merged(model["spec"], changes)})

    def stages_of(self, runtime: str) -> dict[str, Any]:
        """What a FineTuneRuntime says about nodes and resources of the two stages, to lay over another one."""
        found = self.kube.get("finetuneruntime", runtime)
        assert found is not None
        return {stage: found["spec"][stage] for stage in ("prepare", "train")}

    @contextlib.contextmanager
    def watching_pods(self) -> Iterator[PodWatch]:
        watch = PodWatch(self.kube)
        try:
            yield watch
        finally:
            watch.close()

    def scale_operator(self, replicas: int) -> None:
        """Stop or start the operator and wait until it is so."""
        self.kube.kubectl("scale", OPERATOR, "-n", OPERATOR_NAMESPACE, f"--replicas={replicas}")
        if replicas:
            self.kube.kubectl("rollout", "status", OPERATOR, "-n", OPERATOR_NAMESPACE, "--timeout=120s")
        else:
            until("the operator's pod is gone", lambda: not self.operator_pods(), timeout=60)

    def operator_pods(self) -> list[dict[str, Any]]:
        return self.kube.list("pods", OPERATOR_NAMESPACE, "app.kubernetes.io/name=finetune-operator")

    def kill_operator(self) -> None:
        """End the operator without giving it time for anything; the Deployment starts another."""
        for pod in self.operator_pods():
            name = pod["metadata"]["name"]
            self.kube.kubectl("delete", "pod", name, "-n", OPERATOR_NAMESPACE, "--grace-period=0", "--force")
        self.kube.kubectl("rollout", "status", OPERATOR, "-n", OPERATOR_NAMESPACE, "--timeout=120s")

    def upgrade(self, **values: Any) -> None:
        """``helm upgrade`` with some values changed; returns when the operator is ready again."""
        chart = str(ROOT / "charts/finetune-operator")
        options = ("--reuse-values", "--values", "-", "--wait", "--timeout", "180s")
        self.kube.helm("upgrade", RELEASE, chart, "-n", OPERATOR_NAMESPACE, *options, stdin=json.dumps(values))

    def operator_log(self, since: str) -> list[dict[str, Any]]:
        """The operator's log since then, every line of it JSON."""
        lines: list[dict[str, Any]] = []
        for pod in self.operator_pods():
            name = pod["metadata"]["name"]
            with contextlib.suppress(CommandError, subprocess.SubprocessError):
                text = self.kube.kubectl("logs", name, "-n", OPERATOR_NAMESPACE, f"--since-time={since}")
                lines += [json.loads(line) for line in text.splitlines() if line.strip()]
        return lines

    def unexpected_log_lines(self, tenant: Tenant) -> list[dict[str, Any]]:
        """Warnings and errors since the tenant was made, and restarts that no test caused."""
        bad = [
            line
            for line in self.operator_log(tenant.since)
            if str(line.get("level", "")).upper() not in ("DEBUG", "INFO")
        ]
        for pod in self.operator_pods():
            for container in pod["status"].get("containerStatuses", []):
                if container["restartCount"]:
                    bad.append({"pod": pod["metadata"]["name"], "restarts": container["restartCount"]})
        return bad
