"""Calling buildah: its passing failure is tried again, any other is told at once."""

from collections import deque
from pathlib import Path

import pytest

from devclusterlib.imagestore import MAX_LINE, TRIES, Store, kept, steps_done
from devclusterlib.settings import Paths
from devclusterlib.shell import DevclusterError

FLAKE = "Close_Fd sealing memfd copy: Device or resource busy"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store whose buildah is a script that counts its calls and fails as the file `fails` says."""
    buildah = tmp_path / "bin" / "buildah"
    buildah.parent.mkdir()
    buildah.write_text(
        f"#!/bin/sh\ncd {tmp_path}\necho x >> calls\n"
        '[ "$(wc -l < calls)" -gt "$(cat fails)" ] && exit 0\ncat message >&2\nexit 3\n'
    )
    buildah.chmod(0o755)
    monkeypatch.setenv("PATH", f"{buildah.parent}:/usr/bin:/bin")
    return Store(Paths(home=tmp_path / "home", cache=tmp_path / "cache"))


def plan(tmp_path: Path, fails: int, message: str) -> None:
    (tmp_path / "fails").write_text(str(fails))
    (tmp_path / "message").write_text(message + "\n")


def calls(tmp_path: Path) -> int:
    return len((tmp_path / "calls").read_text().splitlines())


@pytest.mark.parametrize("way", ["run", "stream"])
def test_the_passing_failure_is_tried_again(way: str, store: Store, tmp_path: Path) -> None:
    plan(tmp_path, 2, FLAKE)
    getattr(store, way)("bud")
    assert calls(tmp_path) == 3


@pytest.mark.parametrize("way", ["run", "stream"])
def test_but_not_for_ever(way: str, store: Store, tmp_path: Path) -> None:
    plan(tmp_path, 99, FLAKE)
    with pytest.raises(DevclusterError, match="buildah bud failed"):
        getattr(store, way)("bud")
    assert calls(tmp_path) == TRIES


@pytest.mark.parametrize("way", ["run", "stream"])
def test_another_failure_is_told_at_once(way: str, store: Store, tmp_path: Path) -> None:
    plan(tmp_path, 1, "no such file")
    with pytest.raises(DevclusterError, match=r"buildah bud failed \(exit 3\)"):
        getattr(store, way)("bud")
    assert calls(tmp_path) == 1


def test_a_question_may_fail(store: Store, tmp_path: Path) -> None:
    plan(tmp_path, 1, "no such image")
    assert not store.has("x")
    assert store.has("x")


def test_only_steps_that_were_carried_out_are_shown() -> None:
    said = [
        "[2/2] STEP 1/3: FROM base\n",
        "[2/2] STEP 2/3: COPY a /a\n",
        "--> Using cache 0badc0de\n",
        "--> 0badc0de\n",
        "[2/2] STEP 3/3: RUN make\n",
        "compiling\n",
        "linking\n",
        "--> 1badc0de\n",
    ]
    assert list(steps_done(said)) == ["  3/3: RUN make"]


def test_a_long_step_is_shown_short() -> None:
    (line,) = steps_done(["STEP 1/1: RUN " + "x" * 500, "--> done"])
    assert len(line) <= MAX_LINE + 4


def test_the_last_words_are_kept_for_the_error() -> None:
    last: deque[str] = deque(maxlen=2)
    assert list(kept(["a", "b", "c"], last)) == ["a", "b", "c"]
    assert list(last) == ["b", "c"]
