"""Models come from S3, a folder or a hub, only safe files are downloaded, and failures name field and mend."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import set_client_factory
from huggingface_hub.utils._http import default_client_factory

from finetune_api.job import Dataset, Model
from finetune_api.reasons import Reason
from finetune_api.runtime import ResolvedStorage, Storage
from finetune_trainer.errors import StageError
from finetune_trainer.process.console import no_progress
from finetune_trainer.storage.access import Access
from finetune_trainer.storage.fetch import FetchedModel, fetch_dataset, fetch_model
from finetune_trainer.storage.modelfiles import select_model_files
from tests.support.hubserver import HubServer, running_hub
from tests.support.s3server import S3Server, free_port
from tests.trainer.conftest import make_certificate, write_keys

FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "model-00001-of-00002.safetensors": b"1" * 1000,
    "model-00002-of-00002.safetensors": b"2" * 500,
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {f"layer.{i}": f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}}
    ).encode(),
    "pytorch_model.bin": b"pickle",
    "README.md": b"# card",
    "onnx/model.onnx": b"onnx",
    "original/consolidated.safetensors": b"copy",
}
WANTED = {name for name in FILES if "/" not in name and not name.endswith((".bin", ".md"))}
TEXT = {name for name in WANTED if not name.endswith(".safetensors")}


def failure(call: Callable[[], object]) -> StageError:
    with pytest.raises(StageError) as caught:
        call()
    return caught.value


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def stored_model(s3: S3Server, bucket: str) -> str:
    for name, content in FILES.items():
        s3.client().put_object(Bucket=bucket, Key=f"models/tiny/{name}", Body=content)
    return f"s3://{bucket}/models/tiny/"


@pytest.fixture
def hub_model(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    hub.repos["org/tiny"] = dict(FILES)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return hub


@pytest.fixture
def hub_access(tmp_path: Path) -> Access:
    """No credentials folder, as in a job without model.credentialsRef."""
    return Access(storage=ResolvedStorage(), credentials_dir=tmp_path / "none", scratch=tmp_path)


def get(access: Access, uri: str, folder: Path, *, revision: str | None = None, **options: object) -> FetchedModel:
    return fetch_model(
        Model.model_validate({"uri": uri, "revision": revision}, context={"local": True}),
        access=access,
        folder=folder,
        progress=no_progress,
        **options,  # type: ignore[arg-type]  # weights and pinned_revision as each test needs them
    )


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
    (tmp_path / "two/model-00001-of-00002.safetensors").write_bytes(b"9" * 1000)
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


def test_a_hub_model_is_downloaded_at_the_commit_of_its_revision(
    hub_model: HubServer, hub_access: Access, tmp_path: Path
) -> None:
    got = get(hub_access, "hf://org/tiny", tmp_path / "m", revision="v1")
    assert got.revision == hub_model.commits["v1"]
    assert names(got.folder) == WANTED
    assert all((got.folder / name).read_bytes() == FILES[name] for name in WANTED)
    assert hub_model.downloaded() == WANTED


def test_a_hub_model_without_a_revision_is_its_main_branch(
    hub_model: HubServer, hub_access: Access, tmp_path: Path
) -> None:
    assert get(hub_access, "hf://org/tiny", tmp_path / "m").revision == hub_model.commits["main"]


def test_only_the_text_files_of_a_hub_model_are_needed_for_tokenising(
    hub_model: HubServer, hub_access: Access, tmp_path: Path
) -> None:
    get(hub_access, "hf://org/tiny", tmp_path / "m", weights=False)
    assert hub_model.downloaded() == TEXT


def test_train_takes_the_commit_that_prepare_saw_even_if_the_branch_moved(
    hub_model: HubServer, hub_access: Access, tmp_path: Path
) -> None:
    before = get(hub_access, "hf://org/tiny", tmp_path / "a", weights=False).revision
    hub_model.commits["main"] = "c" * 40
    hub_model.commits["pinned"] = before
    assert get(hub_access, "hf://org/tiny", tmp_path / "b", pinned_revision=before).revision == before


def test_the_hub_of_the_runtime_wins_over_the_environment(
    hub_model: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    storage = ResolvedStorage(model=Storage(prefix="hf://org/", endpoint=hub_model.endpoint))
    access = Access(storage=storage, credentials_dir=tmp_path / "none", scratch=tmp_path)
    assert get(access, "hf://org/tiny", tmp_path / "m").revision == hub_model.commits["main"]


def test_an_s3_endpoint_is_not_taken_for_a_hub(hub_model: HubServer, access: Access, tmp_path: Path) -> None:
    write_keys(tmp_path / "credentials/model", HF_TOKEN="token-1")
    assert get(access, "hf://org/tiny", tmp_path / "m").revision == hub_model.commits["main"]


@pytest.mark.parametrize("trusted", [True, False])
def test_a_hub_of_the_platform_is_checked_with_its_own_certificates(
    trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path)
    pem = certificate.read_text()
    monkeypatch.setattr("finetune_trainer.storage.hub._ATTEMPTS", 1)
    with running_hub(certificate) as hub:
        hub.repos["org/tiny"] = dict(FILES)
        settings = Storage(
            prefix="hf://org/",
            endpoint=hub.endpoint,
            ca_bundle=pem[pem.index("-----BEGIN CERTIFICATE") :] if trusted else None,
        )
        access = Access(storage=ResolvedStorage(model=settings), credentials_dir=tmp_path / "none", scratch=tmp_path)
        try:
            if trusted:
                assert names(get(access, "hf://org/tiny", tmp_path / "m").folder) == WANTED
            else:
                assert (
                    failure(lambda: get(access, "hf://org/tiny", tmp_path / "m")).reason is Reason.STORAGE_UNAVAILABLE
                )
        finally:
            set_client_factory(default_client_factory)


def test_a_private_model_is_read_with_the_token_of_the_secret(
    hub_model: HubServer, hub_access: Access, tmp_path: Path
) -> None:
    hub_model.tokens = {"hf-token-1"}
    error = failure(lambda: get(hub_access, "hf://org/tiny", tmp_path / "a"))
    assert error.reason is Reason.MODEL_NOT_FOUND
    assert "model.credentialsRef" in error.message
    write_keys(tmp_path / "none/model", HF_TOKEN="hf-token-1\n")
    assert names(get(hub_access, "hf://org/tiny", tmp_path / "b").folder) == WANTED


def test_a_secret_without_a_token_names_the_key(hub_model: HubServer, hub_access: Access, tmp_path: Path) -> None:
    write_keys(tmp_path / "none/model", AWS_ACCESS_KEY_ID="x")
    error = failure(lambda: get(hub_access, "hf://org/tiny", tmp_path / "a"))
    assert (error.reason, "HF_TOKEN" in error.message) == (Reason.CREDENTIALS_NOT_FOUND, True)


def test_a_wrong_token_is_never_printed(hub_model: HubServer, hub_access: Access, tmp_path: Path) -> None:
    hub_model.tokens = {"hf-token-1"}
    write_keys(tmp_path / "none/model", HF_TOKEN="hf-canary")
    assert "hf-canary" not in failure(lambda: get(hub_access, "hf://org/tiny", tmp_path / "a")).message


def test_a_gated_model_says_what_to_do(hub_model: HubServer, hub_access: Access, tmp_path: Path) -> None:
    hub_model.gated.add("org/tiny")
    error = failure(lambda: get(hub_access, "hf://org/tiny", tmp_path / "a"))
    assert (error.reason, "accept its terms" in error.message) == (Reason.ACCESS_DENIED, True)


@pytest.mark.parametrize(
    ("uri", "revision", "words"),
    [("hf://org/none", None, "hf://org/none"), ("hf://org/tiny", "v9", "model.revision")],
)
def test_an_unknown_hub_model_or_revision_is_not_found(  # noqa: PLR0917 - fixtures
    uri: str, revision: str | None, words: str, hub_model: HubServer, hub_access: Access, tmp_path: Path
) -> None:
    error = failure(lambda: get(hub_access, uri, tmp_path / "a", revision=revision))
    assert (error.reason, words in error.message) == (Reason.MODEL_NOT_FOUND, True)


def test_a_hub_that_stumbles_once_is_asked_again(hub_model: HubServer, hub_access: Access, tmp_path: Path) -> None:
    hub_model.failures = 1
    assert get(hub_access, "hf://org/tiny", tmp_path / "a").revision


def test_a_hub_that_is_down_is_unavailable(hub_access: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr("finetune_trainer.storage.hub._ATTEMPTS", 1)
    error = failure(lambda: get(hub_access, "hf://org/tiny", tmp_path / "a"))
    assert (error.reason, "can't be reached" in error.message) == (Reason.STORAGE_UNAVAILABLE, True)


def test_a_pickled_hub_model_is_refused_before_anything_is_downloaded(
    hub_model: HubServer, hub_access: Access, tmp_path: Path
) -> None:
    hub_model.repos["org/bad"] = {"config.json": b"{}", "pytorch_model.bin": b"x"}
    assert failure(lambda: get(hub_access, "hf://org/bad", tmp_path / "a")).reason is Reason.UNSAFE_MODEL
    assert hub_model.downloaded() == set()


def dataset(**fields: object) -> Dataset:
    return Dataset.model_validate({"template": {"name": "topic"}, **fields}, context={"local": True})


def test_one_file_of_rows_keeps_its_ending(access: Access, s3: S3Server, bucket: str, tmp_path: Path) -> None:
    row = json.dumps({"text": "a"}).encode()
    s3.client().put_object(Bucket=bucket, Key="in/rows.v2.jsonl", Body=row)
    got = fetch_dataset(
        dataset(uri=f"s3://{bucket}/in/rows.v2.jsonl"), access=access, folder=tmp_path / "d", progress=no_progress
    )
    assert list(got) == ["all"]
    assert (got["all"].suffix, got["all"].read_bytes()) == (".jsonl", row)


def test_rows_that_are_split_already_come_part_by_part(access: Access, tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / f"{part}.csv").write_text(part)
    files = {part: f"file://{tmp_path}/{part}.csv" for part in ("train", "test")}
    split = {"trainPercent": 90, "validationPercent": 10, "testPercent": 0}
    got = fetch_dataset(dataset(files=files, split=split), access=access, folder=tmp_path / "d", progress=no_progress)
    assert {part: path.read_text() for part, path in got.items()} == {"train": "train", "test": "test"}


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
