"""A machine's package source reaches a build as files, translated where only one of pip and uv is set up."""

import tomllib
from pathlib import Path

import pytest

from devclusterlib import packageindex


@pytest.fixture(autouse=True)
def no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This machine's own settings stay out of the tests."""
    monkeypatch.setattr(packageindex, "PIP_FILES", (str(tmp_path / "none"),))
    monkeypatch.setattr(packageindex, "UV_FILES", (str(tmp_path / "none"),))


def test_nothing_set_is_empty_files() -> None:
    assert packageindex.pip_conf(packageindex.pip_settings({})) == ""
    assert packageindex.uv_toml({}, {}) == ""


def test_pip_environment_wins_over_its_file(tmp_path: Path) -> None:
    file = tmp_path / "pip.conf"
    file.write_text("[global]\nindex-url = https://file.test/simple\ncert = /x.pem\ntrusted-host = file.test\n")
    env = {"PIP_CONFIG_FILE": str(file), "PIP_INDEX_URL": "https://env.test/simple"}
    settings = packageindex.pip_settings(env)
    assert settings == {"index-url": "https://env.test/simple", "trusted-host": "file.test"}


def test_the_nearest_pip_file_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    near.write_text("[global]\nindex-url = https://near.test/simple\n")
    far.write_text(
        "[global]\nindex-url = https://far.test/simple\nextra-index-url =\n  https://x.test\n  https://y.test\n"
    )
    monkeypatch.setattr(packageindex, "PIP_FILES", (str(near), str(far)))
    settings = packageindex.pip_settings({})
    assert settings["index-url"] == "https://near.test/simple"
    assert "extra-index-url = https://x.test\n    https://y.test\n" in packageindex.pip_conf(settings)


def test_pip_only_is_translated_for_uv() -> None:
    pip = {
        "index-url": "https://a.test/simple",
        "extra-index-url": "https://b.test https://c.test",
        "trusted-host": "a.test",
    }
    settings = tomllib.loads(packageindex.uv_toml({}, pip))
    assert settings["allow-insecure-host"] == ["a.test"]
    assert [index["url"] for index in settings["index"]] == [
        "https://b.test",
        "https://c.test",
        "https://a.test/simple",
    ]
    assert [index.get("default", False) for index in settings["index"]] == [False, False, True]


def test_uvs_own_environment_wins_and_names_are_cut_off() -> None:
    env = {"UV_DEFAULT_INDEX": "main=https://u.test/simple?a=b", "UV_INDEX": "https://v.test/simple"}
    settings = tomllib.loads(packageindex.uv_toml(env, {"index-url": "https://pip.test/simple"}))
    assert [index["url"] for index in settings["index"]] == ["https://v.test/simple", "https://u.test/simple?a=b"]


def test_uvs_own_file_wins_over_pip(tmp_path: Path) -> None:
    file = tmp_path / "uv.toml"
    file.write_text("offline = true\n")
    assert packageindex.uv_toml({"UV_CONFIG_FILE": str(file)}, {"index-url": "https://pip.test"}) == "offline = true\n"


def test_secrets_are_files_that_only_root_reads(tmp_path: Path) -> None:
    arguments = packageindex.write_secrets(tmp_path)
    assert arguments[::2] == ["--secret"] * 3
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "pip.conf": 0o600,
        "uv.toml": 0o600,
        "ca.pem": 0o600,
    }
