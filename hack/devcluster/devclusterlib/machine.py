"""What the cluster changes on the machine outside its state folder, and how that is undone.

Three things: a control group in every hierarchy, a few kernel settings that the kubelet writes, and some folders whose
paths are fixed inside the kubelet, containerd and the CNI plugins. `up` prepares and remembers, `down` restores.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from pathlib import Path

from .process import kill_and_wait
from .settings import CGROUP_ROOT, Paths
from .shell import DevclusterError, run

# The kubelet's setupKernelTunables writes these (its alternative is to refuse to start).
KERNEL_SETTINGS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
# Fixed paths that no flag moves. Removed by `down` where they were not there before.
FIXED_FOLDERS = (
    Path("/var/lib/kubelet"),
    Path("/var/lib/cni"),
    Path("/var/log/containers"),
    Path("/run/containerd"),
)
# "ip netns" mounts this folder over itself the first time it is used, and leaves it so. Removed only when nothing is
# left in it: somebody else may have begun to use it since.
NETNS_FOLDER = Path("/run/netns")
_MOUNTINFO = re.compile(r"^\d+ \d+ \S+ \S+ (?P<point>\S+) .* - (?P<type>\S+) \S+ \S+$")


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def remember(paths: Paths) -> None:
    """Writes down, once, what `down` has to restore."""
    record = paths.home / "machine.json"
    if record.exists():
        return
    settings = {}
    for name in KERNEL_SETTINGS:
        with contextlib.suppress(OSError):
            settings[name] = Path("/proc/sys", name).read_text().strip()
    made = [str(folder) for folder in (*FIXED_FOLDERS, NETNS_FOLDER) if not folder.exists()]
    record.write_text(json.dumps({"boot": boot_id(), "settings": settings, "made": made}))


def recorded_boot(paths: Paths) -> str | None:
    """The boot during which the state was made; etcd runs without fsync, so its data doesn't outlive that boot."""
    try:
        return str(json.loads((paths.home / "machine.json").read_text())["boot"])
    except (OSError, ValueError, KeyError):
        return None


def restore(paths: Paths) -> None:
    try:
        record = json.loads((paths.home / "machine.json").read_text())
    except (OSError, ValueError):
        return
    if record.get("boot") == boot_id():
        for name, value in record["settings"].items():
            with contextlib.suppress(OSError):
                Path("/proc/sys", name).write_text(value)
    _remove_own_entries(paths)
    for folder in map(Path, record["made"]):
        if folder != NETNS_FOLDER:
            shutil.rmtree(folder, ignore_errors=True)
        elif folder.exists() and not any(folder.iterdir()):
            run(["umount", str(folder)], check=False)
            folder.rmdir()


def _remove_own_entries(paths: Paths) -> None:
    """In fixed folders that somebody else uses as well, only what is the cluster's goes."""
    for link in Path("/var/log/containers").glob("*.log"):
        if link.is_symlink() and str(link.readlink()).startswith(str(paths.logs)):
            link.unlink()
    for file in Path("/var/lib/cni/results").glob(f"{CGROUP_ROOT}-*"):
        file.unlink()


def parse_mountinfo(text: str) -> list[tuple[str, str]]:
    """(mount point, file system type) of every line, in the order in which they were mounted."""
    found = []
    for line in text.splitlines():
        match = _MOUNTINFO.match(line)
        if match:
            point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal.group(1), 8)), match["point"])
            found.append((point, match["type"]))
    return found


def mounts_below(folder: Path) -> list[str]:
    """Mount points at or below the folder, the newest first, which is the order to unmount them in."""
    prefix = str(folder.resolve())
    mounted = parse_mountinfo(Path("/proc/self/mountinfo").read_text())
    return [point for point, _ in reversed(mounted) if point == prefix or point.startswith(prefix + "/")]


def unmount_below(folder: Path) -> None:
    for point in mounts_below(folder):
        # Lazily where a dying process still holds it: it is out of the tree at once, which is what matters here.
        if run(["umount", point], check=False).returncode != 0:
            run(["umount", "-l", point], check=False)
    left = mounts_below(folder)
    if left:
        raise DevclusterError(f"can't unmount {left[0]}")


def cgroup_hierarchies() -> list[Path]:
    """One mount per controller with version 1, a single one with version 2."""
    mounted = parse_mountinfo(Path("/proc/self/mountinfo").read_text())
    return [Path(point) for point, kind in mounted if kind in ("cgroup", "cgroup2")]


def make_cgroups() -> None:
    hierarchies = cgroup_hierarchies()
    for hierarchy in hierarchies:
        group = hierarchy / CGROUP_ROOT
        group.mkdir(exist_ok=True)
        if len(hierarchies) == 1:
            _pass_on_controllers(hierarchy)
        # A new cpuset is empty, and nothing can run in an empty one.
        for name in ("cpuset.cpus", "cpuset.mems"):
            own, parent = group / name, hierarchy / name
            if parent.exists() and own.exists() and not own.read_text().strip():
                own.write_text(parent.read_text())


def _pass_on_controllers(hierarchy: Path) -> None:
    """Version 2: a group has only the controllers that its parent passes on, and the kubelet insists on some."""
    offered = hierarchy / "cgroup.controllers"
    for controller in ("cpu", "cpuset", "io", "memory", "pids", "hugetlb") if offered.exists() else ():
        with contextlib.suppress(OSError):
            (hierarchy / "cgroup.subtree_control").write_text(f"+{controller}")


def cgroup_pids() -> set[int]:
    """Every process in the cluster's control groups: all containers, and nothing else."""
    pids: set[int] = set()
    for hierarchy in cgroup_hierarchies():
        for file in (hierarchy / CGROUP_ROOT).rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                pids.update(int(line) for line in file.read_text().split())
    return pids - {os.getpid()}


def remove_cgroups(patience: float = 30.0) -> None:
    """Kills what is in them and removes them, innermost first.

    A killed process occupies its group until its parent has reaped it, and some machines' first process takes seconds
    for that: hence the patience.
    """
    deadline = time.monotonic() + patience
    while True:
        kill_and_wait(cgroup_pids())
        busy = [folder for hierarchy in cgroup_hierarchies() for folder in _remove_tree(hierarchy / CGROUP_ROOT)]
        if not busy:
            return
        if time.monotonic() > deadline:
            raise DevclusterError(f"control group {busy[0]} stays busy")
        time.sleep(0.05)


def _remove_tree(top: Path) -> list[Path]:
    """Removes the folders of a control group tree, and returns those that won't go yet."""
    busy = []
    folders = [top, *(folder for folder in top.rglob("*") if folder.is_dir())] if top.exists() else []
    for folder in sorted(folders, reverse=True):
        try:
            folder.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            busy.append(folder)
    return busy


def shims(paths: Paths) -> list[tuple[int, str]]:
    """(pid, socket) of every containerd shim of this cluster, told from others by containerd's address."""
    ours = str(paths.containerd_socket)
    bundles = paths.home / "run" / "containerd" / "io.containerd.runtime.v2.task" / "k8s.io"
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            arguments = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "containerd-shim" in arguments[0] and ours in arguments:
            name = arguments[arguments.index("-id") + 1] if "-id" in arguments else ""
            address = bundles / name / "address"
            found.append((int(folder.name), address.read_text().strip() if name and address.exists() else ""))
    return found


def kill_containers(paths: Paths) -> None:
    """Shims first, so that none reports an exit to anybody; then all that is left in the control groups."""
    found = shims(paths)
    kill_and_wait(pid for pid, _ in found)
    for _, address in found:
        if address.startswith("unix://"):
            Path(address.removeprefix("unix://")).unlink(missing_ok=True)
    remove_cgroups()
