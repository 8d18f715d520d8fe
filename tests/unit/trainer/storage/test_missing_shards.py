"""Files that count themselves: where one of them is missing, rows would be missing in silence."""

from __future__ import annotations

import pytest

from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.storage.hublayout import LayoutError, choose_config, splits_of
from finetune_trainer.storage.rowfiles import missing_shard, select_row_files
from finetune_trainer.storage.store import StoredFile


def shards(count: int, *left_out: int, name: str = "train", first: int = 0, ending: str = ".parquet") -> list[str]:
    numbers = [n for n in range(first, first + count) if n not in left_out]
    return [f"{name}-{n:05}-of-{count:05}{ending}" for n in numbers]


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (shards(3), ""),
        (shards(3, 1), "train-00001-of-00003.parquet"),
        (shards(3, 0), "train-00000-of-00003.parquet"),
        (shards(3, 2), "train-00002-of-00003.parquet"),
        (shards(3, 1, 2), "train-00001-of-00003.parquet"),
        (shards(1), ""),
        (shards(3, first=1), ""),
        (shards(3, 2, first=1), "train-00002-of-00003.parquet"),
        (shards(3) + shards(2, 1, name="test"), "test-00001-of-00002.parquet"),
        (shards(3) + shards(2, name="other/train"), ""),
        (shards(3, 1, name="en/train") + shards(3, 2, name="de/train"), "de/train-00002-of-00003.parquet"),
        (shards(3, 1, ending=".jsonl.gz"), "train-00001-of-00003.jsonl.gz"),
        ([f"train-0000{n}-of-00002-{hash_}.parquet" for n, hash_ in enumerate(("ab12", "cd34"))], ""),
        (["train-00001-of-00002-ab12.parquet"], "train-00000-of-00002.parquet"),
        (["a.parquet", "train-1-of-3.parquet", "out-of-5.parquet"], ""),
    ],
)
def test_the_first_shard_that_is_not_there_is_named(names: list[str], missing: str) -> None:
    assert missing_shard(names, names) == missing


def test_a_shard_that_lies_there_and_was_not_chosen_is_not_missing() -> None:
    assert missing_shard(shards(3, 1), shards(3)) == ""
    assert missing_shard(shards(2, name="test"), shards(2, name="test") + shards(3, 1)) == ""


def test_a_prefix_without_one_of_its_shards_is_refused_by_name() -> None:
    listed = [StoredFile(key, 10) for key in shards(3, 1)]
    with pytest.raises(StageError) as caught:
        select_row_files(listed, field="dataset.uri", uri="s3://data/in/", declared="Auto")
    assert caught.value.reason is Reason.DATASET_INVALID
    assert str(caught.value).startswith(
        "dataset.uri: below s3://data/in/ the shard train-00001-of-00003.parquet is missing"
    )


def test_an_empty_shard_is_there_and_a_hidden_one_is_not() -> None:
    full = [StoredFile(key, 0 if "00001" in key else 10) for key in shards(3)]
    assert len(select_row_files(full, field="dataset.uri", uri="s3://data/in/", declared="Auto")) == 2
    hidden = [StoredFile(f"_{key}" if "00001-of" in key else key, 10) for key in shards(3)]
    with pytest.raises(StageError, match=r"train-00001-of-00003\.parquet is missing"):
        select_row_files(hidden, field="dataset.uri", uri="s3://data/in/", declared="Auto")


def test_a_data_set_of_the_hub_without_one_of_its_shards_is_refused_by_name() -> None:
    names = [f"data/{name}" for name in (*shards(3, 2), *shards(1, name="test"))]
    with pytest.raises(LayoutError, match=r"the shard data/train-00002-of-00003\.parquet is missing"):
        splits_of(choose_config({}, names, None, None), names, "Auto", "rows.py")


def carded(files: object, names: list[str]) -> dict[str, list[str]]:
    card = {"configs": [{"config_name": "small", "data_files": files}]}
    return splits_of(choose_config(card, names, None, None), names, "Auto", "rows.py")


def test_a_card_may_name_some_shards_and_not_one_that_is_missing() -> None:
    names = [f"data/{name}" for name in shards(3)]
    assert carded(names[0], names) == carded(names[0], names[:1]) == {"train": names[:1]}
    assert carded(names, names) == {"train": names}
    with pytest.raises(LayoutError, match=r"the shard data/train-00001-of-00003\.parquet is missing"):
        carded(names, [names[0], names[2]])


def test_a_card_that_names_shards_by_a_pattern_wants_all_that_they_count() -> None:
    names = [f"data/{name}" for name in (*shards(3), *shards(2, 1, name="test"))]
    assert carded("data/train-*", names) == {"train": names[:3]}
    assert carded("data/train-00000*", names) == {"train": names[:1]}
    with pytest.raises(LayoutError, match=r"the shard data/train-00002-of-00003\.parquet is missing"):
        carded("data/train-*", names[:2])
