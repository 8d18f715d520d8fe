"""Models of a hub: at the commit of their revision, with the token of the Secret, and failures that say what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import set_client_factory
from huggingface_hub.utils._http import default_client_factory

from finetune_api.job import Adapter
from finetune_api.reasons import Reason
from finetune_api.runtime import ResolvedStorage, Storage
from finetune_trainer.process.console import no_progress
from finetune_trainer.storage.access import Access
from finetune_trainer.storage.adapterfiles import fetch_adapter
from tests.support.fetch_kit import FILES, TEXT, WANTED, failure, get, names
from tests.support.hubserver import HubServer, running_hub
from tests.support.s3server import free_port
from tests.trainer.conftest import make_certificate, write_keys


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


def test_a_private_adapter_is_told_with_the_credentials_of_the_adapter(
    hub_model: HubServer, hub_access: Access, tmp_path: Path
) -> None:
    hub_model.tokens = {"hf-token-1"}
    adapter = Adapter.model_validate({"uri": "hf://org/tiny"})
    error = failure(lambda: fetch_adapter(adapter, access=hub_access, folder=tmp_path / "a", progress=no_progress))
    assert error.reason is Reason.MODEL_NOT_FOUND
    assert "needs model.adapter.credentialsRef with HF_TOKEN" in error.message


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
