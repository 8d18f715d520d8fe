"""Fixtures of the encoder's tests: tokenizers with and without a chat template."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from tests.support.tiny_tokenizer import make_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizers")


@pytest.fixture(scope="module")
def chat(folder: Path) -> PreTrainedTokenizerFast:
    return make_tokenizer(folder / "chat")


@pytest.fixture(scope="module")
def plain(folder: Path) -> PreTrainedTokenizerFast:
    return make_tokenizer(folder / "plain", chat=False)
