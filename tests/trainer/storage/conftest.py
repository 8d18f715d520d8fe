"""A model on a hub, and access to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_api.runtime import ResolvedStorage
from finetune_trainer.storage.access import Access
from tests.support.fetch_kit import FILES
from tests.support.hubserver import HubServer


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
