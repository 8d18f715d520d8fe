"""Models and rows come from S3 or a folder, only safe files are downloaded, and failures name field and mend."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune_api.dataset import DatasetFiles
from finetune_api.job import Dataset, Model
from finetune_api.reasons import Reason
from finetune_api.runtime import ResolvedStorage
from finetune_trainer.errors import StageError
from finetune_trainer.process.console import no_progress
from finetune_trainer.storage.access import Access
from finetune_trainer.storage.fetch import fetch_model
from finetune_trainer.storage.modelfiles import select_model_files
from finetune_trainer.storage.rows import fetch_dataset
from tests.support.fetch_kit import FILES, TEXT, WANTED, failure, get, names
from tests.support.hubserver import HubServer
from tests.support.s3server import S3Server


@pytest.fixture
def stored_model(s3: S3Server, bucket: str) -> str:
    for name, content in FILES.items():
        s3.client().put_object(Bucket=bucket, Key=f"models/tiny/{name}", Body=content)
    return f"s3://{bucket}/models/tiny/"


def test_only_the_safe_files_of_a_stored_model_are_downloaded(
    stored_model: str, access: Access, tmp_path: Path
) -> None:
    got = get(access, stored_model, tmp_path / "model")
    assert names(got.folder) == WANTED
    assert all((got.folder / name).read_bytes() == FILES[name] for name in WANTED)


def test_tokenising_needs_no_weights(stored_model: str, access: Access, tmp_path: Path) -> None:
    assert names(get(access, stored_model, tmp_path / "model", weights=False).folder) == TEXT


def test_a_uri_without_a_final_slash_is_the_same_folder(stored_model: str, access: Access, tmp_path: Path) -> None:
    assert names(get(access, stored_model.rstrip("/"), tmp_path / "model").folder) == WANTED


def test_a_neighbour_with_a_longer_name_is_not_part_of_the_model(
    stored_model: str, access: Access, s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    s3.client().put_object(Bucket=bucket, Key="models/tiny-two/extra.json", Body=b"{}")
    assert "extra.json" not in names(get(access, stored_model, tmp_path / "model").folder)


def test_the_revision_of_a_stored_model_is_the_same_with_and_without_weights(
    stored_model: str, access: Access, tmp_path: Path
) -> None:
    one = get(access, stored_model, tmp_path / "a", weights=False)
    two = get(access, stored_model, tmp_path / "b", pinned_revision=one.revision)
    assert one.revision == two.revision
    assert one.revision.startswith("sha256:")


def test_a_stored_model_that_changed_since_prepare_is_refused(
    stored_model: str, access: Access, s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    before = get(access, stored_model, tmp_path / "a", weights=False)
    s3.client().put_object(Bucket=bucket, Key="models/tiny/tokenizer.json", Body=b"[]")
    error = failure(lambda: get(access, stored_model, tmp_path / "b", pinned_revision=before.revision))
    assert (error.reason, "has changed" in error.message) == (Reason.VERIFICATION_FAILED, True)


def test_a_local_model_is_used_where_it_lies(access: Access, tmp_path: Path) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    for name in WANTED:
        (folder / name).write_bytes(FILES[name])
    got = get(access, f"file://{folder}", tmp_path / "unused")
    assert got.folder == folder
    assert not (tmp_path / "unused").exists()


def test_the_revision_of_a_local_model_follows_its_content(access: Access, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for name in WANTED:
            (tmp_path / folder / name).write_bytes(FILES[name])
    same = [get(access, f"file://{tmp_path / folder}/", tmp_path).revision for folder in ("one", "two")]
    (tmp_path / "two/model-00001-of-00002.safetensors").write_bytes(
        FILES["model-00001-of-00002.safetensors"][:-1] + b"9"
    )
    assert same[0] == same[1] != get(access, f"file://{tmp_path}/two/", tmp_path).revision


def test_downloads_report_their_progress_up_to_the_total(stored_model: str, access: Access, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    fetch_model(Model(uri=stored_model), access=access, folder=tmp_path / "m", progress=lambda *now: seen.append(now))
    total = sum(len(FILES[name]) for name in WANTED)
    assert max(seen) == (total, total)


@pytest.mark.parametrize(
    ("files", "reason", "words"),
    [
        ([], Reason.MODEL_NOT_FOUND, "no files"),
        (["readme.txt"], Reason.MODEL_NOT_FOUND, "config.json"),
        (["sub/config.json", "sub/model.safetensors"], Reason.MODEL_NOT_FOUND, "no files"),
        (["config.json"], Reason.MODEL_NOT_FOUND, "no weights"),
        (["config.json", "pytorch_model.bin"], Reason.UNSAFE_MODEL, "pytorch_model.bin"),
        (["config.json", "model.pt"], Reason.UNSAFE_MODEL, "model.pt"),
        (["config.json", "consolidated.00.pth"], Reason.UNSAFE_MODEL, "consolidated.00.pth"),
        (["config.json", "model.gguf"], Reason.MODEL_INVALID, "model.gguf"),
        (["config.json", "tf_model.h5"], Reason.MODEL_INVALID, "tf_model.h5"),
    ],
)
@pytest.mark.parametrize("weights", [True, False])
def test_what_is_no_safetensors_model_is_refused_by_its_listing(
    files: list[str], reason: Reason, words: str, weights: bool
) -> None:
    error = failure(lambda: select_model_files(files, place="s3://b/m/", weights=weights))
    assert error.reason is reason
    assert words in error.message
    assert "s3://b/m/" in error.message


def test_a_vendors_second_copy_of_the_weights_is_left_out() -> None:
    listing = ["config.json", "consolidated.safetensors", "model.safetensors"]
    assert select_model_files(listing, place="") == ("config.json", "model.safetensors")


def test_shards_beside_a_whole_file_are_left_out() -> None:
    listing = ["config.json", "model-00001-of-00001.safetensors", "model.safetensors", "model.safetensors.index.json"]
    chosen = select_model_files(listing, place="")
    assert chosen == ("config.json", "model.safetensors", "model.safetensors.index.json")


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("kind", ["s3", "hub", "local"])
def test_a_missing_shard_is_found_from_the_index_before_any_weights_are_fetched(
    *,
    kind: str,
    weights: bool,
    access: Access,
    hub_access: Access,
    tmp_path: Path,
    s3: S3Server,
    bucket: str,
    stored_model: str,
    hub_model: HubServer,
) -> None:
    gone = "model-00002-of-00002.safetensors"
    if kind == "s3":
        s3.client().delete_object(Bucket=bucket, Key=f"models/tiny/{gone}")
        uri = stored_model
    elif kind == "hub":
        del hub_model.repos["org/tiny"][gone]
        uri = "hf://org/tiny"
    else:
        (tmp_path / "there").mkdir()
        for name in WANTED - {gone}:
            (tmp_path / "there" / name).write_bytes(FILES[name])
        uri = f"file://{tmp_path}/there/"
    error = failure(lambda: get(hub_access if kind == "hub" else access, uri, tmp_path / "m", weights=weights))
    assert error.reason is Reason.MODEL_INVALID
    assert f"lacks 1 of 2 files of the weights, among them {gone}" in error.message
    assert not list((tmp_path / "m").glob("*.safetensors")) if kind != "local" else True


def test_shards_without_an_index_are_refused(access: Access, tmp_path: Path) -> None:
    for name in WANTED - {"model.safetensors.index.json"}:
        (tmp_path / name).write_bytes(FILES[name])
    error = failure(lambda: get(access, f"file://{tmp_path}/", tmp_path / "m"))
    assert (error.reason, "model.safetensors.index.json" in error.message) == (Reason.MODEL_INVALID, True)


def test_an_adapter_is_refused_by_its_listing() -> None:
    listing = ["adapter_config.json", "adapter_model.safetensors", "config.json"]
    error = failure(lambda: select_model_files(listing, place="s3://b/m/"))
    assert (error.reason, "merge it into its base" in error.message) == (Reason.MODEL_INVALID, True)


def test_weights_under_another_name_are_taken_when_there_are_no_others() -> None:
    assert "weights.safetensors" in select_model_files(["config.json", "weights.safetensors"], place="")


def test_a_pickled_model_is_refused_before_its_weights_are_downloaded(
    access: Access, s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    for name in ("config.json", "pytorch_model.bin"):
        s3.client().put_object(Bucket=bucket, Key=f"bad/{name}", Body=b"{}")
    assert failure(lambda: get(access, f"s3://{bucket}/bad/", tmp_path / "m")).reason is Reason.UNSAFE_MODEL
    assert not (tmp_path / "m").exists()


def dataset(**fields: object) -> Dataset:
    return Dataset.model_validate({"template": {"name": "topic"}, **fields}, context={"local": True})


def test_one_file_of_rows_keeps_its_ending(access: Access, s3: S3Server, bucket: str, tmp_path: Path) -> None:
    row = json.dumps({"text": "a"}).encode()
    s3.client().put_object(Bucket=bucket, Key="in/rows.v2.jsonl", Body=row)
    got = fetch_dataset(
        dataset(uri=f"s3://{bucket}/in/rows.v2.jsonl"), access=access, folder=tmp_path / "d", progress=no_progress
    )
    assert [(file.part, file.name, file.path.suffix, file.path.read_bytes()) for file in got] == [
        (None, "rows.v2.jsonl", ".jsonl", row)
    ]


def test_rows_that_are_split_already_come_part_by_part(access: Access, tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / f"{part}.csv").write_text(part)
    files = {part: f"file://{tmp_path}/{part}.csv" for part in ("train", "test")}
    split = {"trainPercent": 90, "validationPercent": 10, "testPercent": 0}
    got = fetch_dataset(dataset(files=files, split=split), access=access, folder=tmp_path / "d", progress=no_progress)
    assert {file.part: file.path.read_text() for file in got} == {"train": "train", "test": "test"}


def test_a_missing_part_is_named_by_its_field(access: Access, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("x")
    files = {"train": f"file://{tmp_path}/train.csv", "validation": f"file://{tmp_path}/none.csv"}
    split = {"trainPercent": 90, "validationPercent": 0, "testPercent": 10}
    error = failure(
        lambda: fetch_dataset(
            dataset(files=files, split=split), access=access, folder=tmp_path / "d", progress=no_progress
        )
    )
    assert error.reason is Reason.DATASET_NOT_FOUND
    assert "dataset.files.validation" in error.message


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("data/topics.tsv", "'data/topics.tsv' is not a URI that this version reads; use s3://"),
        ("http://example.com/rows.jsonl", "'http://example.com/rows.jsonl' is not a URI"),
        ("s3://data", "'s3://data' is not a URI"),
        ("hf://org/rows.jsonl", "hf://org/rows.jsonl names a model; a dataset of the hub is hf://"),
    ],
)
def test_a_uri_of_rows_that_cannot_be_read_is_shown_whole_with_its_field(tmp_path: Path, uri: str, why: str) -> None:
    access = Access(storage=ResolvedStorage(), credentials_dir=tmp_path, scratch=tmp_path)
    files = DatasetFiles.model_construct(train=f"file://{tmp_path}/rows.jsonl", validation=None, test=uri)
    for field, dataset in (
        ("dataset.uri", Dataset.model_construct(uri=uri, files=None, format="Auto")),
        ("dataset.files.test", Dataset.model_construct(uri=None, files=files, format="Auto")),
    ):
        with pytest.raises(StageError) as caught:
            fetch_dataset(dataset, access=access, folder=tmp_path, progress=no_progress)
        assert caught.value.reason is Reason.INVALID_SPEC
        assert caught.value.message.startswith(f"{field}: {why}")
