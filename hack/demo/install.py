"""What the demo and the end-to-end tests set up alike: images, the chart, a tenant's namespace, buckets.

``Target.detect`` finds out where: the development cluster, or, with KUBECONFIG in the environment, a cluster of the
user's own with REGISTRY for the images and AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY for the storage.
There, BASE_IMAGE names another base, BUILD_ARGS further arguments of the image build (a proxy, a private CA), and
REGISTRY_INSECURE=1 a registry without TLS.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from hack.demo.kube import ROOT, Kube, devcluster, run

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

__all__ = ["OPERATOR_NAMESPACE", "Images", "S3Access", "Target", "ensure_bucket", "install_chart", "tenant_objects"]

OPERATOR_NAMESPACE: Final = "finetune-system"
RELEASE: Final = "finetune-operator"


@dataclass(frozen=True, kw_only=True, slots=True)
class S3Access:
    """An S3-compatible endpoint that works from this machine and from pods."""

    endpoint: str
    access_key: str
    secret_key: str
    region: str

    def client(self) -> S3Client:
        """A boto3 client for it."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 5, "mode": "standard"}),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Images:
    """The two images, each by digest."""

    operator: str
    trainer: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Where the demo runs."""

    own_cluster: bool
    """True: the user's cluster; False: the development cluster of this repository."""
    registry: str | None

    @classmethod
    def detect(cls) -> Target:
        """Read KUBECONFIG and REGISTRY from the environment; a half-given cluster ends with what is missing."""
        if not os.environ.get("KUBECONFIG"):
            return cls(own_cluster=False, registry=None)
        needed = ("REGISTRY", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        missing = [name for name in needed if not os.environ.get(name)]
        if missing:
            sys.exit(
                f"KUBECONFIG is set, so the demo uses your cluster; set {', '.join(missing)} too "
                "(REGISTRY: where images are pushed; AWS_*: S3-compatible storage that this machine and your pods "
                "reach), or unset KUBECONFIG to use the development cluster."
            )
        return cls(own_cluster=True, registry=os.environ["REGISTRY"].rstrip("/"))

    def connect(self) -> Kube:
        """Bring the cluster up, if it is ours, and connect to it."""
        if self.own_cluster:
            return Kube.connect(Path(os.environ["KUBECONFIG"].split(os.pathsep)[0]))
        devcluster("up", show=True)
        return Kube.connect(Path(devcluster("kubeconfig")))

    def images(self) -> Images:
        """Build both images and push them; returns them by digest."""
        if self.registry:
            return Images(
                **{name: _build(name, f"{self.registry}/finetune-{name}") for name in ("operator", "trainer")}
            )
        lines = (line.split() for line in devcluster("images", show=True).splitlines())
        found = dict(lines)
        return Images(operator=found["operator"], trainer=found["trainer"])

    def s3(self) -> S3Access:
        """The storage."""
        values = dict(os.environ)
        if not self.own_cluster:
            for line in devcluster("s3").splitlines():
                name, _, value = line.removeprefix("export ").partition("=")
                values[name] = value.strip("'\"")
        return S3Access(
            endpoint=values["AWS_ENDPOINT_URL"],
            access_key=values["AWS_ACCESS_KEY_ID"],
            secret_key=values["AWS_SECRET_ACCESS_KEY"],
            region=values.get("AWS_REGION") or values.get("AWS_DEFAULT_REGION") or "us-east-1",
        )


def _build(name: str, ref: str) -> str:
    """Build with docker or buildah, push to the user's registry, return the reference by digest."""
    dockerfile = str(ROOT / ("operator" if name == "operator" else "trainer_image") / "Dockerfile")
    base = ["--build-arg", f"BASE_IMAGE={os.environ['BASE_IMAGE']}"] if os.environ.get("BASE_IMAGE") else []
    base += shlex.split(os.environ.get("BUILD_ARGS", ""))
    tag = f"{ref}:demo"
    if shutil.which("buildah"):
        run("buildah", "bud", "--layers", *base, "-f", dockerfile, "-t", tag, str(ROOT), show=True)
        with tempfile.TemporaryDirectory() as folder:
            digest = Path(folder) / "digest"
            insecure = ["--tls-verify=false"] if os.environ.get("REGISTRY_INSECURE") else []
            run("buildah", "push", *insecure, "--digestfile", str(digest), tag, f"docker://{tag}", show=True)
            return f"{ref}@{digest.read_text().strip()}"
    if shutil.which("docker"):
        run("docker", "build", *base, "-f", dockerfile, "-t", tag, str(ROOT), show=True)
        run("docker", "push", tag, show=True)
        return run("docker", "inspect", "--format", "{{index .RepoDigests 0}}", tag).strip()
    sys.exit("Neither buildah nor docker is installed; install one of them to build the images for REGISTRY.")


def ensure_bucket(client: S3Client, name: str) -> None:
    """Create a bucket unless it is there."""
    try:
        client.head_bucket(Bucket=name)
    except ClientError:
        client.create_bucket(Bucket=name)


def chart_values(images: Images, s3: S3Access, *, cpu: str, memory: str, simulated_gpus: bool) -> dict[str, Any]:
    """Values of the chart: both images by digest, and a default runtime for this machine's size."""
    repository, digest = images.operator.split("@")
    trainer_repository, trainer_digest = images.trainer.split("@")
    return {
        "image": {"repository": repository, "digest": digest},
        "runtime": {
            "image": {"repository": trainer_repository, "digest": trainer_digest},
            "simulatedGpus": simulated_gpus,
            "outputPrefix": "s3://demo-results",
            "storage": [
                {"prefix": "s3://", "endpoint": s3.endpoint, "region": s3.region, "addressingStyle": "Path"},
            ],
            "prepare": {"resources": {"cpu": "1", "memory": "4Gi", "ephemeralStorage": "4Gi"}},
            "train": {"resources": {"cpu": cpu, "memory": memory, "ephemeralStorage": "8Gi"}},
        },
    }


def install_chart(
    kube: Kube, images: Images, s3: S3Access, *, cpu: str = "1800m", memory: str = "8Gi", simulated_gpus: bool = False
) -> None:
    """Install or upgrade the chart and wait until the operator is ready."""
    values = json.dumps(chart_values(images, s3, cpu=cpu, memory=memory, simulated_gpus=simulated_gpus))
    command = (
        *("upgrade", "--install", RELEASE, str(ROOT / "charts/finetune-operator")),
        *("--namespace", OPERATOR_NAMESPACE, "--create-namespace", "--values", "-", "--wait", "--timeout", "180s"),
    )
    kube.helm(*command, stdin=values)


def tenant_objects(namespace: str, s3: S3Access, *, secret: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A tenant's namespace with restricted Pod Security, and the Secret with its S3 credentials."""
    return (
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": namespace, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        },
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": secret, "namespace": namespace},
            "stringData": {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key},
        },
    )
