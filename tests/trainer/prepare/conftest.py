"""Fixtures of prepare's tests: tokenizers with and without a chat template, and a data set for each."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from tests.support.prepare_kit import Dataset
from tests.support.tiny_tokenizer import make_tokenizer


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    return make_tokenizer(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    return make_tokenizer(tmp_path_factory.mktemp("plain"), chat=False)


@pytest.fixture
def dataset(tmp_path: Path, chat: PreTrainedTokenizerFast) -> Dataset:
    return Dataset(tmp_path, chat)


@pytest.fixture
def plain_dataset(tmp_path: Path, plain: PreTrainedTokenizerFast) -> Dataset:
    return Dataset(tmp_path, plain)
