"""Rows of a dataset of the hub: its own splits as parts, one commit for a job, and failures that say what to do."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from finetune_api.dataset import Dataset
from finetune_api.reasons import Reason
from finetune_api.runtime import ResolvedStorage, Storage
from finetune_trainer.process.console import no_progress
from finetune_trainer.storage.access import Access
from finetune_trainer.storage.rowfiles import RowFile, revision_of
from finetune_trainer.storage.rows import fetch_dataset
from tests.support.fetch_kit import failure
from tests.support.hubserver import HubServer
from tests.support.s3server import S3Server, free_port
from tests.trainer.conftest import write_keys

ROWS = "hf://datasets/org/rows"
FILES = {
    "README.md": b"---\nlicense: mit\n---\n",
    "data/train-00000-of-00002.jsonl": b'{"text": "a"}\n',
    "data/train-00001-of-00002.jsonl": b'{"text": "b"}\n',
    "data/validation-00000-of-00001.jsonl": b'{"text": "c"}\n',
    "data/test-00000-of-00001.jsonl": b'{"text": "d"}\n',
    "data/extra-00000-of-00001.jsonl": b'{"text": "e"}\n',
    "pictures/a.png": b"png",
}


@pytest.fixture
def rows(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    hub.repos["datasets/org/rows"] = dict(FILES)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return hub


def dataset(**fields: Any) -> Dataset:
    return Dataset.model_validate({"template": {"name": "topic"}, **fields}, context={"local": True})


def fetch(access: Access, folder: Path, **fields: Any) -> list[RowFile]:
    return fetch_dataset(dataset(**fields), access=access, folder=folder, progress=no_progress)


def texts(files: list[RowFile]) -> list[tuple[str | None, bytes]]:
    return [(file.part, file.path.read_bytes()[10:11]) for file in files]


def test_the_splits_of_a_dataset_are_its_parts(rows: HubServer, hub_access: Access, tmp_path: Path) -> None:
    got = fetch(hub_access, tmp_path / "d", uri=ROWS)
    assert texts(got) == [("train", b"a"), ("train", b"b"), ("validation", b"c"), ("test", b"d")]
    assert [file.name for file in got][:2] == ["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl"]
    assert rows.downloaded() == {name for name in FILES if "extra" not in name and "png" not in name}


def test_splits_that_are_no_part_are_left_out_and_named_in_the_log(
    rows: HubServer, hub_access: Access, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "finetune_trainer"):
        fetch(hub_access, tmp_path / "d", uri=ROWS)
    commit = rows.commits["main"]
    assert f"{ROWS} is commit {commit}; read are the splits train, validation, test, left out extra" in caplog.messages


def test_a_named_split_is_cut_like_any_file(rows: HubServer, hub_access: Access, tmp_path: Path) -> None:
    assert texts(fetch(hub_access, tmp_path / "d", uri=f"{ROWS}#extra")) == [(None, b"e")]


def test_a_train_split_alone_is_cut_like_any_file(rows: HubServer, hub_access: Access, tmp_path: Path) -> None:
    rows.repos["datasets/org/rows"] = {"train.jsonl": b'{"text": "a"}\n'}
    assert texts(fetch(hub_access, tmp_path / "d", uri=ROWS)) == [(None, b"a")]


def test_a_field_for_a_part_takes_the_split_of_that_part_or_the_named_one(
    rows: HubServer, hub_access: Access, tmp_path: Path
) -> None:
    files = {"train": ROWS, "validation": f"{ROWS}#extra", "test": f"{ROWS}@main#validation"}
    got = fetch(hub_access, tmp_path / "d", files=files)
    assert texts(got) == [("train", b"a"), ("train", b"b"), ("validation", b"e"), ("test", b"c")]


def test_sources_may_lie_on_the_hub_and_elsewhere(
    rows: HubServer, s3: S3Server, bucket: str, credentials: Path, tmp_path: Path
) -> None:
    s3.client().put_object(Bucket=bucket, Key="a.jsonl", Body=b'{"text": "z"}\n')
    storage = Storage(prefix="s3://", endpoint=s3.endpoint, region="us-east-1")
    access = Access(storage=ResolvedStorage(dataset=storage), credentials_dir=credentials, scratch=tmp_path)
    got = fetch(access, tmp_path / "d", sources=[{"uri": f"{ROWS}#train"}, {"uri": f"s3://{bucket}/a.jsonl"}])
    assert [(file.source, file.path.read_bytes()[10:11]) for file in got] == [(0, b"a"), (0, b"b"), (1, b"z")]
    assert [file.origin for file in got] == [(f"{ROWS}#train", rows.commits["main"])] * 2 + [None]


def test_the_settings_of_a_hub_are_not_those_of_s3(
    rows: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    storage = Storage(prefix="hf://", endpoint=rows.endpoint)
    access = Access(storage=ResolvedStorage(dataset=storage), credentials_dir=tmp_path / "none", scratch=tmp_path)
    assert len(fetch(access, tmp_path / "d", uri=ROWS)) == 4
    assert access.settings_for("dataset", "s3://bucket/") is None


def test_a_branch_is_resolved_once_though_it_moves_meanwhile(
    rows: HubServer, hub_access: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune_trainer.storage import hubrows

    asked = hubrows.resolve_hub_repo

    def moving(*arguments: Any, **more: Any) -> Any:
        found = asked(*arguments, **more)
        rows.history[found.commit] = {"datasets/org/rows": dict(FILES)}
        rows.commits["old"], rows.commits["main"] = found.commit, "d" * 40
        rows.repos["datasets/org/rows"] = {"train.jsonl": b'{"text": "x"}\n', "test.jsonl": b'{"text": "y"}\n'}
        return found

    monkeypatch.setattr(hubrows, "resolve_hub_repo", moving)
    got = fetch(hub_access, tmp_path / "d", files={"train": ROWS, "test": ROWS})
    assert texts(got) == [("train", b"a"), ("train", b"b"), ("test", b"d")]
    assert {file.origin for file in got} == {(ROWS, "a" * 40)}


def test_a_revision_is_what_stands_behind_the_at(rows: HubServer, hub_access: Access, tmp_path: Path) -> None:
    rows.commits["refs/convert/parquet"] = "e" * 40
    rows.history["e" * 40] = {"datasets/org/rows": {"default/test/0000.parquet": b"PAR1"}}
    got = fetch(hub_access, tmp_path / "d", uri=f"{ROWS}/default@refs/convert/parquet#test")
    assert [(file.name, file.origin and file.origin[1]) for file in got] == [("default/test/0000.parquet", "e" * 40)]


def test_a_configuration_is_read_from_the_card(rows: HubServer, hub_access: Access, tmp_path: Path) -> None:
    card = b"---\nconfigs:\n- config_name: small\n  data_files: data/extra*\n- config_name: all\n---\n"
    rows.repos["datasets/org/rows"]["README.md"] = card
    assert texts(fetch(hub_access, tmp_path / "d", uri=f"{ROWS}/small")) == [(None, b"e")]
    error = failure(lambda: fetch(hub_access, tmp_path / "e", uri=ROWS))
    assert error.reason is Reason.DATASET_INVALID
    assert f"dataset.uri: {ROWS}: it has the configurations small, all; name one of them" in error.message


def test_a_private_dataset_is_read_with_the_token_of_the_secret(
    rows: HubServer, hub_access: Access, tmp_path: Path
) -> None:
    rows.tokens = {"hf-token-1"}
    error = failure(lambda: fetch(hub_access, tmp_path / "a", uri=ROWS))
    assert error.reason is Reason.DATASET_NOT_FOUND
    assert error.message.startswith(f"dataset.uri: the hub has no dataset {ROWS} that these credentials may read")
    assert "dataset.credentialsRef with HF_TOKEN" in error.message
    write_keys(tmp_path / "none/dataset", HF_TOKEN="hf-token-1\n")
    assert len(fetch(hub_access, tmp_path / "b", uri=ROWS)) == 4


def test_a_secret_with_keys_of_s3_alone_reads_a_public_dataset(
    rows: HubServer, hub_access: Access, tmp_path: Path
) -> None:
    write_keys(tmp_path / "none/dataset", AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="y")
    assert len(fetch(hub_access, tmp_path / "a", uri=ROWS)) == 4


def test_a_secret_without_any_key_names_the_one_that_it_lacks(
    rows: HubServer, hub_access: Access, tmp_path: Path
) -> None:
    write_keys(tmp_path / "none/dataset", TOKEN="x")
    error = failure(lambda: fetch(hub_access, tmp_path / "a", uri=ROWS))
    assert (error.reason, "HF_TOKEN" in error.message) == (Reason.CREDENTIALS_NOT_FOUND, True)


def test_a_gated_dataset_says_what_to_do(rows: HubServer, hub_access: Access, tmp_path: Path) -> None:
    rows.gated.add("datasets/org/rows")
    error = failure(lambda: fetch(hub_access, tmp_path / "a", uri=ROWS))
    assert (error.reason, "dataset.uri: " in error.message, "accept its terms" in error.message) == (
        Reason.ACCESS_DENIED,
        True,
        True,
    )


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("hf://datasets/org/none", "the hub has no dataset hf://datasets/org/none"),
        (f"{ROWS}@v9", f"{ROWS} has no revision 'v9'"),
    ],
)
def test_an_unknown_dataset_or_revision_is_not_found(
    uri: str, words: str, rows: HubServer, hub_access: Access, tmp_path: Path
) -> None:
    error = failure(lambda: fetch(hub_access, tmp_path / "a", files={"train": ROWS, "test": uri}))
    assert (error.reason, words in error.message) == (Reason.DATASET_NOT_FOUND, True)
    assert error.message.startswith("dataset.files.test: ")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"uri": f"{ROWS}#nope"}, "it has no such split, but train, validation, test, extra; correct the name behind"),
        ({"files": {"train": ROWS, "test": f"{ROWS}#nope"}}, "dataset.files.test: "),
    ],
)
def test_a_split_that_is_not_there_is_refused_with_those_there_are(
    fields: dict[str, Any], words: str, rows: HubServer, hub_access: Access, tmp_path: Path
) -> None:
    error = failure(lambda: fetch(hub_access, tmp_path / "a", **fields))
    assert (error.reason, words in error.message) == (Reason.DATASET_INVALID, True)
    assert rows.downloaded() <= {"README.md"}


@pytest.mark.parametrize(
    ("names", "fields", "words"),
    [
        (["test.jsonl"], {"uri": ROWS}, "it has no split for train (its splits: test); name one behind the URI, such"),
        (["train.jsonl"], {"files": {"train": ROWS, "test": ROWS}}, "no split for test (its splits: train)"),
        (
            ["data/train_sft-00000-of-00001.jsonl"],
            {"uri": ROWS},
            "(its splits: train_sft); name one behind the URI, su",
        ),
        (
            ["data/train-00000-of-00001.jsonl", "data/dev-00000-of-00001.jsonl", "data/val-00000-of-00001.jsonl"],
            {"uri": ROWS},
            "it has several splits for validation (its splits: train, dev, val); name one behind the URI, such as #dev",
        ),
    ],
)
def test_splits_that_leave_a_part_open_are_refused(  # noqa: PLR0917 - fixtures
    names: list[str], fields: dict[str, Any], words: str, rows: HubServer, hub_access: Access, tmp_path: Path
) -> None:
    rows.repos["datasets/org/rows"] = dict.fromkeys(names, b'{"text": "a"}\n')
    error = failure(lambda: fetch(hub_access, tmp_path / "a", **fields))
    assert (error.reason, words in error.message) == (Reason.DATASET_INVALID, True)


def test_a_column_for_the_parts_beside_parts_of_its_own_is_refused(
    rows: HubServer, hub_access: Access, tmp_path: Path
) -> None:
    error = failure(lambda: fetch(hub_access, tmp_path / "a", uri=ROWS, split={"by": "part"}))
    assert error.reason is Reason.INVALID_SPEC
    assert "has train and validation and test rows of its own; take the field out" in error.message
    assert texts(fetch(hub_access, tmp_path / "b", uri=f"{ROWS}#train", split={"by": "part"}))[0] == (None, b"a")


def test_a_source_with_parts_beside_one_without_is_refused(rows: HubServer, hub_access: Access, tmp_path: Path) -> None:
    rows.repos["datasets/org/more"] = {"train.jsonl": b'{"text": "m"}\n'}
    more = "hf://datasets/org/more"
    for sources in ([{"uri": ROWS}, {"uri": more}], [{"uri": more}, {"uri": ROWS}]):
        error = failure(lambda s=sources: fetch(hub_access, tmp_path / "a", sources=s))  # type: ignore[misc]
        assert error.reason is Reason.INVALID_SPEC
        assert f"{ROWS} has train and validation and test rows of its own and {more} (dataset" in error.message
        assert f"name the split to cut, such as {ROWS}#train" in error.message


def test_sources_that_all_bring_the_same_parts_keep_them(rows: HubServer, hub_access: Access, tmp_path: Path) -> None:
    rows.repos["datasets/org/more"] = {n: FILES[n] for n in FILES if n.startswith("data/t") or "valid" in n}
    got = fetch(hub_access, tmp_path / "a", sources=[{"uri": ROWS}, {"uri": "hf://datasets/org/more"}])
    assert [(file.source, file.part) for file in got] == [
        (source, part) for source in (0, 1) for part in ("train", "train", "validation", "test")
    ]


def test_a_model_is_no_dataset(hub_access: Access, tmp_path: Path) -> None:
    error = failure(lambda: fetch(hub_access, tmp_path / "a", uri="hf://org/rows"))
    assert (error.reason, "hf://org/rows names a model" in error.message) == (Reason.INVALID_SPEC, True)


def test_a_script_is_neither_downloaded_nor_run(rows: HubServer, hub_access: Access, tmp_path: Path) -> None:
    rows.repos["datasets/org/rows"]["rows.py"] = b"raise SystemExit"
    error = failure(lambda: fetch(hub_access, tmp_path / "a", uri=ROWS))
    assert (error.reason, "@refs/convert/parquet" in error.message) == (Reason.DATASET_INVALID, True)
    assert "rows.py" not in rows.downloaded()


def test_names_that_lead_out_of_the_folder_are_no_files(rows: HubServer, hub_access: Access, tmp_path: Path) -> None:
    rows.repos["datasets/org/rows"] = {"../train.jsonl": b"{}", "train.jsonl": b'{"text": "a"}\n'}
    assert [file.name for file in fetch(hub_access, tmp_path / "a", uri=ROWS)] == ["train.jsonl"]


def test_a_card_without_end_is_refused_before_it_is_downloaded(
    rows: HubServer, hub_access: Access, tmp_path: Path
) -> None:
    rows.repos["datasets/org/rows"]["README.md"] = b"x" * (4 * 2**20 + 1)
    error = failure(lambda: fetch(hub_access, tmp_path / "a", uri=ROWS))
    assert (error.reason, "its README.md has 4194305 bytes" in error.message) == (Reason.DATASET_INVALID, True)
    assert rows.downloaded() == set()


def test_the_revision_is_the_commit_of_one_dataset_and_a_digest_over_several() -> None:
    def read(*origins: tuple[str, str] | None) -> str | None:
        return revision_of([RowFile(path=Path("x"), name="x", origin=origin) for origin in origins])

    one, two = (f"{ROWS}#train", "a" * 40), (f"{ROWS}#test", "a" * 40)
    assert read(None) is None
    assert read(one, two, None) == "a" * 40
    several = read(one, ("hf://datasets/org/more", "a" * 40))
    assert several is not None
    assert several.startswith("sha256:")
    assert read(one, (f"{ROWS}@v1", "b" * 40)) not in {several, "a" * 40, "b" * 40}
    assert read(one, ("hf://datasets/org/more", "b" * 40)) != several
