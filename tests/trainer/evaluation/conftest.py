"""Tiny models of every architecture, each made once."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from finetune_trainer.model.load import LoadedModel, load_model
from tests.support.score_kit import Loader
from tests.support.tiny_model import Architecture, make_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Loader:
    @cache
    def load(architecture: Architecture) -> LoadedModel:
        folder = tmp_path_factory.mktemp(architecture)
        make_model(folder, architecture=architecture, seed=3)
        return load_model(folder, device=torch.device("cpu"), precision="Float32")

    return load
