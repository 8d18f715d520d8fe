"""`up`, `down` and `status`: the order of things.

The only module that knows all the others. Every step of `up` first looks whether its result is there, so that a second
`up` costs a fraction of a second and an `up` after a crash does just what is missing.
"""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from . import api, apt, build, certs, machine, network, node, pause, process, trash
from .parts import FOUNDATION, Part, all_parts
from .settings import API_URL, NODE_IP, NODE_NAME, PAUSE_IMAGE, RUN_DIR, Paths
from .shell import DevclusterError, run, say, stage, wait_until


def up(paths: Paths) -> None:
    started = time.monotonic()
    _check_home(paths)
    with stage("Debian packages"):
        apt.ensure(apt.CLUSTER)
    with stage("binaries"):
        build.build(paths, build.CLUSTER_BINARIES)
    if machine.recorded_boot(paths) not in (None, machine.boot_id()):
        say("the machine has restarted since the cluster was made: starting afresh")
        down(paths)
    is_new = not paths.home.exists()
    with stage("certificates"):
        for folder in (paths.home, paths.data / "s3", paths.data / "s3-users", paths.home / "run"):
            folder.mkdir(parents=True, exist_ok=True)
        machine.remember(paths)
        RUN_DIR.mkdir(exist_ok=True)
        (RUN_DIR / "home").write_text(str(paths.home))
        certs.ensure(paths)
    with stage("network"):
        _ensure_network(paths)
        machine.make_cgroups()
    parts = {part.name: part for part in all_parts(paths)}
    if is_new:
        with stage("registry clean-up"):
            _drop_untagged_images(paths, parts["registry"])
    with stage("etcd, API server, S3, registry"):
        for name in (*FOUNDATION, "kube-apiserver"):
            ensure_running(paths, parts[name])
        _ensure_pause_image(paths)
        _await(paths, parts, (*FOUNDATION, "kube-apiserver"))
    with stage("controllers, proxy, DNS, kubelet"):
        for part in parts.values():
            ensure_running(paths, part)
        node.apply_dns(paths)
        _await(paths, parts, parts)
    with stage("node"):
        wait_until(f"{NODE_NAME} becoming Ready", lambda: _node_is_ready(paths), 90)
        # Made by a controller a moment after the namespace; a pod created before that is refused.
        wait_until("the default service account", lambda: node.has_default_account(paths), 30)
        node.ensure_gpus(paths)
    say(f"up in {time.monotonic() - started:.1f} s: {API_URL}, KUBECONFIG={paths.kubeconfig}")


def down(paths: Paths, *, purge: bool = False) -> None:
    _check_home(paths)
    with stage("processes"):
        process.stop(paths.pids.glob("*.json"))
        machine.kill_containers(paths)
    with stage("mounts, network, state"):
        machine.unmount_below(paths.home)
        machine.unmount_below(RUN_DIR)
        # A build that failed or was killed leaves its working container mounted.
        machine.unmount_below(paths.cache / "containers")
        network.remove()
        machine.restore(paths)
        trash.remove(paths.home)
        shutil.rmtree(RUN_DIR, ignore_errors=True)
    if purge:
        with stage("cache"):
            machine.unmount_below(paths.cache)
            # The lock that this command itself holds lies in there; a lock on a deleted file holds until its end.
            trash.remove(paths.cache)


def status(paths: Paths) -> bool:
    """Prints one line per part; true when all are well."""
    parts = all_parts(paths)
    with concurrent.futures.ThreadPoolExecutor(max_workers=len(parts)) as pool:
        health = list(pool.map(lambda part: is_healthy(paths, part), parts))
    lines = [("network", network.is_up(), f"{NODE_IP}, namespace of its own")]
    for part, healthy in zip(parts, health, strict=True):
        found = process.running(pid_file(paths, part.name))
        lines.append((part.name, healthy, f"pid {found[0]}" if found else "not running"))
    api_is_up = health[[part.name for part in parts].index("kube-apiserver")]
    ready = api_is_up and _node_is_ready(paths)
    lines.append((NODE_NAME, ready, node.describe(paths) if api_is_up else "API server is down"))
    for name, good, detail in lines:
        print(f"{name:<26} {'ok' if good else 'FAILED':<8} {detail}")
    return all(good for _, good, _ in lines)


def pid_file(paths: Paths, name: str) -> Path:
    return paths.pids / f"{name}.json"


def ensure_running(paths: Paths, part: Part) -> None:
    """Starts the part unless it runs as described; restarts it when its settings have changed."""
    file = pid_file(paths, part.name)
    found = process.running(file)
    if found is not None and found[1] == part.fingerprint():
        return
    process.stop([file])
    _write_files(part)
    env = {name: os.environ[name] for name in ("HOME", "LANG", "TZ") if name in os.environ}
    env["PATH"] = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    process.start(
        file,
        [*network.ENTER, *part.command],
        log=paths.logs / f"{part.name}.log",
        fingerprint=part.fingerprint(),
        env=env | dict(part.env),
        cwd=paths.home,
    )


def is_healthy(paths: Paths, part: Part) -> bool:
    if process.running(pid_file(paths, part.name)) is None:
        return False
    if part.name == "containerd":
        return _containerd_answers(paths)
    return api.answers(paths, part.health)


def _node_is_ready(paths: Paths) -> bool:
    file = pid_file(paths, "kubelet")
    return file.exists() and node.is_ready(paths, file.stat().st_mtime)


def _containerd_answers(paths: Paths) -> bool:
    return run(ctr(paths, "version"), check=False, timeout=10).returncode == 0


def ctr(paths: Paths, *arguments: str) -> list[str]:
    return ["ctr", "--address", str(paths.containerd_socket), "--namespace", "k8s.io", *arguments]


def _await(paths: Paths, parts: dict[str, Part], names: Iterable[str], timeout: float = 60.0) -> None:
    """Waits until all are healthy, and tells at once when one has died."""
    waiting = list(names)
    deadline = time.monotonic() + timeout
    while waiting:
        waiting = [name for name in waiting if not is_healthy(paths, parts[name])]
        for name in waiting:
            if process.running(pid_file(paths, name)) is None:
                raise DevclusterError(f"{name} has died; its last words:\n{_tail(paths.logs / f'{name}.log')}")
        if waiting and time.monotonic() > deadline:
            last = _tail(paths.logs / f"{waiting[0]}.log")
            raise DevclusterError(f"not healthy within {timeout:g} s: {', '.join(waiting)}; {waiting[0]} says:\n{last}")
        if waiting:
            time.sleep(0.2)


def _tail(log: Path, lines: int = 15) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(no log)"


def _ensure_network(paths: Paths) -> None:
    if network.is_up():
        return
    # Whatever still runs sits in a namespace that has lost its link; it can't be moved, only started again.
    process.stop(paths.pids.glob("*.json"))
    machine.kill_containers(paths)
    machine.unmount_below(paths.home)
    network.ensure()


def _drop_untagged_images(paths: Paths, registry: Part) -> None:
    """Each build takes the tag from the one before. Only for a new cluster, where nothing runs any of them."""
    if not (paths.cache / "registry" / "docker").exists():
        return
    _write_files(registry)
    program, config = registry.command[0], registry.command[-1]
    run([program, "garbage-collect", "--delete-untagged", "--quiet", config], env=os.environ | dict(registry.env))


def _write_files(part: Part) -> None:
    for path, text in part.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _ensure_pause_image(paths: Paths) -> None:
    wait_until("containerd answering", lambda: _containerd_answers(paths), 30)
    if PAUSE_IMAGE in run(ctr(paths, "images", "list", "-q")).stdout.split():
        return
    archive = paths.home / "pause.tar"
    pause.write_archive(build.binary_path(paths, "pause"), archive)
    run(ctr(paths, "images", "import", str(archive)))
    archive.unlink()


def _check_home(paths: Paths) -> None:
    """One cluster a machine: the addresses are fixed. And containerd's socket path has the kernel's length limit."""
    if len(str(paths.containerd_socket)) > 100:
        raise DevclusterError(f"{paths.home} is too long a path for a socket below it; set FINETUNE_DEVCLUSTER_HOME")
    try:
        other = (RUN_DIR / "home").read_text()
    except OSError:
        return
    if other != str(paths.home) and network.is_up():
        raise DevclusterError(f"a cluster with its state in {other} is up on this machine; only one can be")
