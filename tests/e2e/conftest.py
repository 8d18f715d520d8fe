"""The real cluster that the end-to-end tests share: the development cluster, the built images, the installed chart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.demo.install import Images, S3Access, Target, ensure_bucket, install_chart
from hack.demo.kube import Kube
from tests.e2e.world import Tenant, World
from tests.support.tiny_model import make_model


@pytest.fixture(scope="session")
def target() -> Target:
    """Always the cluster of this repository, whatever KUBECONFIG says: tests end and delete things."""
    return Target(own_cluster=False, registry=None)


@pytest.fixture(scope="session")
def kube(target: Target) -> Kube:
    return target.connect()


@pytest.fixture(scope="session")
def images(target: Target, kube: Kube) -> Images:
    return target.images()


@pytest.fixture(scope="session")
def s3(target: Target, kube: Kube) -> S3Access:
    access = target.s3()
    for bucket in ("e2e-models", "e2e-data", "e2e-results"):
        ensure_bucket(access.client(), bucket)
    return access


@pytest.fixture(scope="session")
def tiny_model_uri(s3: S3Access, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A two-layer model made by this run, in the bucket."""
    folder = tmp_path_factory.mktemp("tiny-model")
    make_model(folder)
    client = s3.client()
    for path in sorted(Path(folder).iterdir()):
        client.upload_file(str(path), "e2e-models", f"tiny/{path.name}")
    return "s3://e2e-models/tiny/"


@pytest.fixture(scope="session")
def world(kube: Kube, images: Images, s3: S3Access, tiny_model_uri: str) -> World:
    install_chart(kube, images, s3, simulated_gpus=True)
    return World(kube=kube, s3=s3, images=images, model_uri=tiny_model_uri)


@pytest.fixture(scope="session")
def pair(world: World) -> Iterator[str]:
    """A runtime of half the machine's size, so that two pods run at a time, each with one thread."""
    half = {"cpu": "900m", "memory": "3Gi", "ephemeralStorage": "3Gi"}
    with world.runtime("e2e-pair", prepare={"resources": half}, train={"resources": half}) as name:
        yield name


@pytest.fixture
def tenant(world: World, request: pytest.FixtureRequest) -> Iterator[Tenant]:
    """A namespace of its own for one test."""
    with world.tenant(request.node.name) as tenant:
        yield tenant


@pytest.fixture(scope="module")
def shared_tenant(world: World, request: pytest.FixtureRequest) -> Iterator[Tenant]:
    """A namespace that the tests of a module share, whose jobs run at the same time."""
    with world.tenant(request.node.name.rpartition("/")[2].removesuffix(".py")) as tenant:
        yield tenant
