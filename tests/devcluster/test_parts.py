"""What the cluster is told to run: nothing outside its state folder, and restarts only when something changed."""

import dataclasses
import json
import tomllib
from pathlib import Path

import pytest

from devclusterlib import configs, parts
from devclusterlib.build import MODULE_OF
from devclusterlib.settings import Paths

PATHS = Paths(home=Path("/state"), cache=Path("/cache"))


def all_parts() -> list[parts.Part]:
    return parts.all_parts(PATHS)


def test_names_are_unique_and_aliases_lead_to_them() -> None:
    names = [part.name for part in all_parts()]
    assert len(set(names)) == len(names)
    assert set(parts.ALIASES.values()) <= set(names)
    assert not set(parts.ALIASES) & set(names)
    assert set(parts.FOUNDATION) <= set(names)


def test_every_binary_is_built_here_or_comes_with_a_package() -> None:
    for part in all_parts():
        program = Path(part.command[0])
        assert program.name in MODULE_OF if program.is_absolute() else program.name == "containerd"


def test_files_lie_in_the_state_folder() -> None:
    assert all(path.is_relative_to(PATHS.home) for part in all_parts() for path in part.files)


def test_every_part_but_containerd_can_be_asked_for_its_health() -> None:
    assert [part.name for part in all_parts() if not part.health] == ["containerd"]


@pytest.mark.parametrize(
    "change",
    [{"command": ("etcd", "--other")}, {"env": {"A": "b"}}, {"files": {Path("/state/etc/x"): "y"}}],
    ids=["command", "environment", "file"],
)
def test_any_change_of_settings_is_another_fingerprint(change: dict[str, object]) -> None:
    part = parts.etcd(PATHS)
    assert dataclasses.replace(part, **change).fingerprint() != part.fingerprint()  # type: ignore[arg-type]


def test_the_fingerprint_is_the_same_next_time() -> None:
    assert [part.fingerprint() for part in all_parts()] == [part.fingerprint() for part in all_parts()]


def test_containerd_keeps_everything_below_the_state_folder() -> None:
    config = tomllib.loads(configs.containerd(PATHS))
    cri = config["plugins"]["io.containerd.grpc.v1.cri"]
    runc = cri["containerd"]["runtimes"]["runc"]["options"]
    places = [config["root"], config["state"], config["grpc"]["address"], runc["Root"], cri["registry"]["config_path"]]
    assert all(Path(place).is_relative_to(PATHS.home) for place in places)
    assert cri["restrict_oom_score_adj"] is True
    assert cri["netns_mounts_under_state_dir"] is True


def test_json_files_are_json() -> None:
    for text in (configs.cni(PATHS), configs.kubelet(PATHS), configs.registry(PATHS)):
        assert isinstance(json.loads(text), dict)


def test_names_outside_the_cluster_do_not_exist_rather_than_time_out() -> None:
    text = configs.corefile(PATHS)
    assert "forward" not in text
    assert "rcode NXDOMAIN" in text
