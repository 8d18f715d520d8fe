"""The product's images: built by buildah from the repository root, pushed to the local registry, named by digest.

`devcluster images` is what `make demo` and the end-to-end tests call before they install the chart. Dependencies and
code are separate layers, so that after a change of code only a few kilobytes are built, pushed and pulled.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from . import api, apt, base, machine, packageindex
from .imagestore import Store, kept_blob_cache
from .settings import REGISTRY, REPO_ROOT, RUN_DIR, Paths
from .shell import DevclusterError, require_root, stage

IMAGES = {"operator": "operator/Dockerfile", "trainer": "trainer_image/Dockerfile"}


def build_all(paths: Paths, names: list[str]) -> Iterator[tuple[str, str]]:
    """Builds and pushes each, and yields (name, reference by digest) as soon as it is in the registry."""
    unknown = [name for name in names if name not in IMAGES]
    if unknown:
        raise DevclusterError(f"no such image: {', '.join(unknown)}; there are {', '.join(IMAGES)}")
    store = _prepare(paths)
    with kept_blob_cache(paths):
        with stage("base image"):
            base_image = base.ensure(paths, store)
        for name in names:
            local = f"localhost/finetune-{name}:latest"
            with stage(f"build image {name}"):
                _build(store, IMAGES[name], base_image, local)
            with stage(f"push image {name}"):
                reference = _push(store, local, f"finetune-{name}:latest")
            yield name, reference
    # The images that lost their tag to these builds. Layers that a tagged image stands on stay: they are the cache.
    store.run("rmi", "--prune", check=False)


def load(paths: Paths, image: str) -> str:
    """Pushes any image of the local buildah stores, the tool's own first."""
    store = _prepare(paths)
    for candidate in (store, Store(paths, own=False)):
        if candidate.has(image):
            last = image.rsplit("/", 1)[-1].partition("@")[0]
            with kept_blob_cache(paths):
                return _push(candidate, image, last if ":" in last else f"{last}:latest")
    raise DevclusterError(f"no image {image} in buildah's storage")


def _prepare(paths: Paths) -> Store:
    require_root()
    if not api.answers(paths, f"http://{REGISTRY}/v2/"):
        raise DevclusterError(f"the registry at {REGISTRY} doesn't answer; run: devcluster up")
    apt.ensure(apt.IMAGES)
    store = Store(paths)
    _sweep(paths, store)
    return store


def _sweep(paths: Paths, store: Store) -> None:
    """What a build that failed or was killed has left, often GBs; the caller's lock says that none is running."""
    if store.output("containers", "--quiet"):
        store.run("rm", "--all")
    for left in (paths.cache / "tmp").glob("*"):
        machine.unmount_below(left)
        if left.name == "buildah-cache":
            continue
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()


def _build(store: Store, dockerfile: str, base_image: str, tag: str) -> None:
    _share_uv_cache(store.paths)
    RUN_DIR.mkdir(exist_ok=True)
    # In /run, which is memory: the files may hold a mirror's password.
    with tempfile.TemporaryDirectory(dir=RUN_DIR, prefix="secrets-") as secrets:
        common = [
            "--isolation=chroot",
            "--layers",
            "--pull=false",
            f"--build-arg=BASE_IMAGE={base_image}",
            *packageindex.write_secrets(Path(secrets)),
            f"--file={REPO_ROOT / dockerfile}",
        ]
        # The first stage gets a tag of its own, since pruning would take its untagged layers for leftovers.
        store.stream("bud", *common, "--target=tools", f"--tag={tag}-tools", str(REPO_ROOT))
        store.stream("bud", *common, f"--tag={tag}", str(REPO_ROOT))


def _share_uv_cache(paths: Paths) -> None:
    """buildah keeps the mount `id=uv` in this place; as a link to uv's own cache it spares fetching 3 GB twice."""
    place = paths.cache / "tmp" / "buildah-cache" / "uv"
    if not place.exists():
        cache = packageindex.uv_cache(os.environ)
        cache.mkdir(parents=True, exist_ok=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(cache)


def _push(store: Store, image: str, name: str) -> str:
    repository = name.partition(":")[0]
    with tempfile.TemporaryDirectory(prefix="devcluster-") as scratch:
        digest = Path(scratch) / "digest"
        # zstd: as fast to write as gzip on two cores, and several times as fast for containerd to unpack. (Sending
        # layers as they are is not possible: buildah ignores --disable-compression for registries.)
        store.run(
            "push",
            "--quiet",
            "--tls-verify=false",
            "--compression-format=zstd",
            "--compression-level=1",
            f"--digestfile={digest}",
            image,
            f"docker://{REGISTRY}/{name}",
        )
        return f"{REGISTRY}/{repository}@{digest.read_text().strip()}"
