"""Finding one's own mounts and processes, and no others."""

import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from devclusterlib import apt, base, machine, pause, process, shell, trash

MOUNTINFO = r"""21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
30 21 0:5 / /state/pods/a rw - tmpfs tmpfs rw,size=4k
31 21 0:6 / /state/with\040space rw,relatime shared:9 master:2 - overlay overlay rw,lowerdir=/a:/b,upperdir=/c
32 21 0:7 / /statement rw - tmpfs tmpfs rw
33 21 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
34 30 0:8 / /state/pods/a/inner rw - tmpfs tmpfs rw
"""


def test_mountinfo_with_and_without_optional_fields() -> None:
    assert machine.parse_mountinfo(MOUNTINFO) == [
        ("/", "ext4"),
        ("/state/pods/a", "tmpfs"),
        ("/state/with space", "overlay"),
        ("/statement", "tmpfs"),
        ("/sys/fs/cgroup/cpu", "cgroup"),
        ("/state/pods/a/inner", "tmpfs"),
    ]


def test_mounts_below_a_folder_come_innermost_first_and_leave_namesakes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: MOUNTINFO)
    assert machine.mounts_below(Path("/state")) == ["/state/pods/a/inner", "/state/with space", "/state/pods/a"]


def test_this_machines_mounts_can_be_read() -> None:
    assert ("/proc", "proc") in machine.parse_mountinfo(Path("/proc/self/mountinfo").read_text())


def pid_file(tmp_path: Path, **changes: object) -> Path:
    record = {"pid": os.getpid(), "started": process.start_ticks(os.getpid()), "fingerprint": "f"} | changes
    file = tmp_path / "part.json"
    file.write_text(json.dumps(record))
    return file


def test_a_running_process_is_recognised(tmp_path: Path) -> None:
    assert process.running(pid_file(tmp_path)) == (os.getpid(), "f")


def test_a_reused_pid_is_somebody_else(tmp_path: Path) -> None:
    assert process.running(pid_file(tmp_path, started=1)) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}'])
def test_a_broken_pid_file_names_nobody(text: str, tmp_path: Path) -> None:
    file = tmp_path / "part.json"
    file.write_text(text)
    assert process.running(file) is None
    assert process.running(tmp_path / "missing.json") is None


def test_start_and_stop(tmp_path: Path) -> None:
    file, log = tmp_path / "pids" / "part.json", tmp_path / "logs" / "part.log"
    script = "echo said; exec sleep 60"
    process.start(file, ["sh", "-c", script], log=log, fingerprint="f", env=os.environ, cwd=tmp_path)
    found = process.running(file)
    assert found is not None
    shell.wait_until("output", lambda: log.read_text() == "said\n", 10)
    process.stop([file])
    assert not file.exists()
    assert process.start_ticks(found[0]) is None


def test_a_zombie_counts_as_gone() -> None:
    child = subprocess.Popen(["true"])
    shell.wait_until("the end", lambda: process.start_ticks(child.pid) is None, 10)
    child.wait()


def test_missing_packages_are_named_once_each(tmp_path: Path) -> None:
    needed = {"sh": "dash", "no-such-command-1": "one", "no-such-command-2": "one", str(tmp_path / "file"): "two"}
    assert apt.missing(needed) == ["one", "two"]


def test_missing_packages_without_root_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(shell.DevclusterError, match="missing packages: one"):
        apt.ensure({"no-such-command-1": "one"})


def test_the_mirror_is_the_one_that_has_the_suite() -> None:
    targets = "https://a.test/tools nodistro main\nhttps://b.test/debian bookworm-updates main\n" + (
        "https://b.test/debian bookworm contrib\nhttps://b.test/debian bookworm main\n"
    )
    assert base.pick_mirror(targets, "bookworm") == "https://b.test/debian"
    assert base.pick_mirror(targets, "trixie") is None


def test_the_pause_archive_is_an_image(tmp_path: Path) -> None:
    binary = tmp_path / "pause"
    binary.write_bytes(b"program")
    pause.write_archive(binary, tmp_path / "pause.tar")
    with tarfile.open(tmp_path / "pause.tar") as archive:
        manifest = json.load(archive.extractfile("manifest.json"))[0]  # type: ignore[arg-type]
        config = json.load(archive.extractfile(manifest["Config"]))  # type: ignore[arg-type]
        with tarfile.open(fileobj=archive.extractfile(manifest["Layers"][0])) as layer:
            assert layer.getmember("pause").mode == 0o755
    assert config["config"]["Entrypoint"] == ["/pause"]
    assert len(config["rootfs"]["diff_ids"]) == 1


def test_a_removed_folder_is_gone_at_once_and_so_are_earlier_heaps(tmp_path: Path) -> None:
    folder, heap, other = tmp_path / "state", tmp_path / "state.deleted-1-2", tmp_path / "statement"
    for each in (folder, heap, other):
        (each / "deep").mkdir(parents=True)
    trash.remove(folder)
    assert list(tmp_path.iterdir()) == [other]
    trash.remove(folder)


def test_a_slow_deletion_is_left_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trash, "PATIENCE", 0.0)
    (tmp_path / "state" / "deep").mkdir(parents=True)
    trash.remove(tmp_path / "state")
    assert not (tmp_path / "state").exists()
    shell.wait_until("the deletion", lambda: not list(tmp_path.iterdir()), 10)
