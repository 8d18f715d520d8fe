"""The command line: parses, takes the lock where two callers would disturb each other, and calls the right module."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

from . import build, cluster, images, node
from .parts import ALIASES, all_parts
from .settings import REGISTRY, S3_ACCESS_KEY, S3_ENDPOINT, S3_REGION, S3_SECRET_KEY, Paths
from .shell import DevclusterError, locked, require_root, say


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="devcluster", description="A real Kubernetes, an S3 server and an image registry on this one machine."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("up", help="start what is not running; fast when all is up")
    down = commands.add_parser("down", help="remove everything the cluster made")
    down.add_argument("--purge", action="store_true", help="the build cache and the built images as well")
    commands.add_parser("status", help="one line per part; exit 0 only if all are healthy")
    commands.add_parser("kubeconfig", help="print the kubeconfig file's path")
    commands.add_parser("s3", help="print shell exports for the S3 server")
    commands.add_parser("registry", help="print the image registry's host:port")
    building = commands.add_parser("images", help="build the product's images, push them, print NAME REF@DIGEST")
    building.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(images.IMAGES)} (default: all)")
    load = commands.add_parser("load", help="push an image from local buildah storage, print its ref by digest")
    load.add_argument("image")
    logs = commands.add_parser("logs", help="print a part's log")
    logs.add_argument("part")
    logs.add_argument("-f", "--follow", action="store_true")
    parts = commands.add_parser("build", help="build the named binaries, or find them in the cache; print their paths")
    parts.add_argument("parts", nargs="+", metavar="PART", help=", ".join(build.MODULE_OF))
    gpus = commands.add_parser("gpus", help="let the node advertise N nvidia.com/gpu")
    gpus.add_argument("count", type=int, metavar="N")
    return parser


def main(argv: list[str]) -> int:
    arguments = _parser().parse_args(argv)
    try:
        return _COMMANDS[arguments.command](Paths.from_environment(), arguments)
    except DevclusterError as error:
        say(f"devcluster: {error}")
        return 1
    except PermissionError as error:
        say(f"devcluster: {error} (the cluster and its cache are usually root's)")
        return 1
    except KeyboardInterrupt:
        return 130


def _up(paths: Paths, _: argparse.Namespace) -> int:
    require_root()
    with locked(paths.cache / "locks" / "cluster", "the cluster"):
        cluster.up(paths)
    return 0


def _down(paths: Paths, arguments: argparse.Namespace) -> int:
    require_root()
    # An image build must not lose its registry and its mounts halfway.
    locks = paths.cache / "locks"
    with locked(locks / "cluster", "the cluster"), locked(locks / "images", "the images"):
        cluster.down(paths, purge=arguments.purge)
    return 0


def _status(paths: Paths, _: argparse.Namespace) -> int:
    return 0 if cluster.status(paths) else 1


def _kubeconfig(paths: Paths, _: argparse.Namespace) -> int:
    print(paths.kubeconfig)
    return 0


def _s3(_paths: Paths, _: argparse.Namespace) -> int:
    exports = {
        "AWS_ENDPOINT_URL": S3_ENDPOINT,
        "AWS_ACCESS_KEY_ID": S3_ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": S3_SECRET_KEY,
        "AWS_REGION": S3_REGION,
        "AWS_DEFAULT_REGION": S3_REGION,
    }
    for name, value in exports.items():
        print(f"export {name}={value}")
    return 0


def _registry(_paths: Paths, _: argparse.Namespace) -> int:
    print(REGISTRY)
    return 0


def _images(paths: Paths, arguments: argparse.Namespace) -> int:
    with locked(paths.cache / "locks" / "images", "the images"):
        for name, ref in images.build_all(paths, arguments.names or list(images.IMAGES)):
            print(name, ref, flush=True)
    return 0


def _load(paths: Paths, arguments: argparse.Namespace) -> int:
    with locked(paths.cache / "locks" / "images", "the images"):
        print(images.load(paths, arguments.image))
    return 0


def _logs(paths: Paths, arguments: argparse.Namespace) -> int:
    names = [part.name for part in all_parts(paths)]
    name = ALIASES.get(arguments.part, arguments.part)
    if name not in names:
        raise DevclusterError(f"no such part: {name}; there are {', '.join(names)}")
    log = paths.logs / f"{name}.log"
    if not log.exists():
        raise DevclusterError(f"{name} has not been started yet (no {log})")
    os.execvp("tail", ["tail", "-n", "+1", *(["-F"] if arguments.follow else []), str(log)])  # noqa: S606 - fixed words and our own path


def _build(paths: Paths, arguments: argparse.Namespace) -> int:
    for path in build.build(paths, arguments.parts):
        print(path)
    return 0


def _gpus(paths: Paths, arguments: argparse.Namespace) -> int:
    if arguments.count < 0:
        raise DevclusterError("the number of GPUs can't be negative")
    node.set_gpus(paths, arguments.count)
    return 0


_COMMANDS: dict[str, Callable[[Paths, argparse.Namespace], int]] = {
    "up": _up,
    "down": _down,
    "status": _status,
    "kubeconfig": _kubeconfig,
    "s3": _s3,
    "registry": _registry,
    "images": _images,
    "load": _load,
    "logs": _logs,
    "build": _build,
    "gpus": _gpus,
}
