"""The binaries' cache: every pin is in its key, and what the cluster starts is what can be built."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from devclusterlib import build
from devclusterlib.settings import Paths
from devclusterlib.shell import DevclusterError


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(home=tmp_path / "home", cache=tmp_path / "cache")


def test_every_module_is_pinned_by_hash() -> None:
    for module in build.MODULES:
        if module.path:
            assert module.path in (module.directory / "go.sum").read_text()
            assert module.version().startswith("v")


def test_every_command_is_named_in_its_modules_tools_file() -> None:
    for module in build.MODULES:
        if module.path:
            tools = (module.directory / "tools.go").read_text()
            assert all(f'"{package}"' in tools for package in module.packages.values())


def test_kubernetes_replaces_all_staging_modules_by_one_version() -> None:
    text = (build.MODULE_OF["kubelet"].directory / "go.mod").read_text()
    versions = {line.split()[-1] for line in text.splitlines() if "=>" in line}
    assert versions == {build.MODULE_OF["kubelet"].version().replace("v1.", "v0.")}


def test_kubernetes_and_helm_carry_their_version_and_agree() -> None:
    kubernetes, helm = build.MODULE_OF["kubectl"], build.MODULE_OF["helm"]
    minor = kubernetes.version().split(".")[1]
    assert f"version.gitVersion={kubernetes.version()} " in kubernetes.link_flags()
    assert f"version.gitMinor={minor} " in kubernetes.link_flags()
    assert f"version.version={helm.version()} " in helm.link_flags()
    assert helm.link_flags().endswith(f"chartutil.k8sVersionMinor={minor}")


@pytest.mark.parametrize("file", ["go.mod", "go.sum"])
def test_a_changed_pin_is_another_cache_folder(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = build.MODULE_OF["etcd"]
    before = module.cache_key()
    shutil.copytree(module.directory, tmp_path / "etcd")
    monkeypatch.setattr(build, "MODULES_DIR", tmp_path)
    assert module.cache_key() == before
    with (tmp_path / "etcd" / file).open("a") as handle:
        handle.write("\n// another pin\n")
    assert module.cache_key() != before


def test_changed_link_flags_are_another_cache_folder() -> None:
    module = build.MODULE_OF["kubectl"]
    assert dataclasses.replace(module, variables=()).cache_key() != module.cache_key()


def test_what_is_in_the_cache_is_not_built(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_build_module", lambda *_: pytest.fail("built"))
    target = build.binary_path(paths, "etcd")
    target.parent.mkdir(parents=True)
    target.touch()
    assert build.build(paths, ["etcd"]) == [target]


def test_only_missing_binaries_are_built_and_a_module_is_built_once(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(build, "_build_module", lambda _, module, names: built.append((module.name, names)))
    present = build.binary_path(paths, "kubelet")
    present.parent.mkdir(parents=True)
    present.touch()
    build.build(paths, ["kube-apiserver", "kubelet", "kubectl", "etcd"])
    assert sorted(built) == [("etcd", ["etcd"]), ("kubernetes", ["kube-apiserver", "kubectl"])]


def test_an_unknown_part_names_the_known_ones(paths: Paths) -> None:
    with pytest.raises(DevclusterError, match=r"no such part: kubeapi.*kube-apiserver"):
        build.build(paths, ["kubeapi"])
