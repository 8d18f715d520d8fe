"""Files of a dataset of the hub become splits as the hub's rules say; what they leave open is refused."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_trainer.storage.hublayout import CONVERTED, LayoutError, card_of, choose_config, part_of_split, splits_of


def splits(
    *names: str,
    configs: list[Any] | None = None,
    config: str | None = None,
    revision: str | None = None,
    declared: str = "Auto",
) -> dict[str, list[str]]:
    card = {} if configs is None else {"configs": configs}
    chosen = choose_config(card, names, config, revision)
    return splits_of(chosen, names, declared, "rows.py")


def refused(*names: str, **more: Any) -> str:
    with pytest.raises(LayoutError) as caught:
        splits(*names, **more)
    return str(caught.value)


NAMED = {
    "shards in data/": (
        ["data/test-00000-of-00001.parquet", "data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
        {
            "train": ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
            "test": ["data/test-00000-of-00001.parquet"],
        },
    ),
    "shards with the hash that older uploads have": (
        ["data/train-00000-of-00001-a1b2c3.parquet"],
        {"train": ["data/train-00000-of-00001-a1b2c3.parquet"]},
    ),
    "shards of splits with names of their own": (
        ["data/unsupervised-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"],
        {"train": ["data/train-00000-of-00001.parquet"], "unsupervised": ["data/unsupervised-00000-of-00001.parquet"]},
    ),
    "words in names of files": (
        ["my_train_file.csv", "dev.csv", "eval.csv", "LICENSE.csv", "README.md"],
        {"train": ["my_train_file.csv"], "validation": ["dev.csv"], "test": ["eval.csv"]},
    ),
    "words between separators": (
        ["a-train.jsonl", "b.val.jsonl", "test 1.jsonl", "valid0.jsonl"],
        {"train": ["a-train.jsonl"], "validation": ["b.val.jsonl", "valid0.jsonl"], "test": ["test 1.jsonl"]},
    ),
    "words in names of folders, which win over those of files": (
        ["x/train/test-1.json", "x/valid-2/train.json", "x/testing/a.json"],
        {"train": ["x/train/test-1.json"], "validation": ["x/valid-2/train.json"], "test": ["x/testing/a.json"]},
    ),
    "no word anywhere": (
        ["b.csv", "a/contrast.csv", "latest.csv"],
        {"train": ["a/contrast.csv", "b.csv", "latest.csv"]},
    ),
    "packed files": (["train.jsonl.gz", "test.jsonl.zst"], {"train": ["train.jsonl.gz"], "test": ["test.jsonl.zst"]}),
    "what is hidden, or about the repository": (
        [
            ".git/train.csv",
            "__pycache__/train.csv",
            "dataset_infos.json",
            "config.json",
            "train.csv",
            "a/train-__1__.csv",
        ],
        {"train": ["a/train-__1__.csv", "train.csv"]},
    ),
    "JSON and JSON Lines": (["train/a.json", "train/b.jsonl"], {"train": ["train/a.json", "train/b.jsonl"]}),
}


@pytest.mark.parametrize("case", NAMED)
def test_names_tell_the_splits(case: str) -> None:
    names, expected = NAMED[case]
    assert splits(*names) == expected


FILES = ["en/a.parquet", "en/b.parquet", "en/deep/er/c.parquet", "de/a.parquet", "x.parquet", "notes.txt", "y[1].csv"]


@pytest.mark.parametrize(
    ("data_files", "expected"),
    [
        ("en/a.parquet", {"train": ["en/a.parquet"]}),
        ("./en/*", {"train": ["en/a.parquet", "en/b.parquet"]}),
        ("en/**", {"train": ["en/a.parquet", "en/b.parquet", "en/deep/er/c.parquet"]}),
        ("**/c.parquet", {"train": ["en/deep/er/c.parquet"]}),
        ("en/**/*.parquet", {"train": ["en/a.parquet", "en/b.parquet", "en/deep/er/c.parquet"]}),
        ("*.parquet", {"train": ["x.parquet"]}),
        ("?.parquet", {"train": ["x.parquet"]}),
        ("*/[!b].parquet", {"train": ["de/a.parquet", "en/a.parquet"]}),
        ("y[[]1].csv", {"train": ["y[1].csv"]}),
        (["de/*", "en/a.parquet"], {"train": ["de/a.parquet", "en/a.parquet"]}),
        (
            [{"split": "test", "path": "de/*"}, {"split": "train", "path": ["en/b.*", "en/a.*"]}],
            {"test": ["de/a.parquet"], "train": ["en/b.parquet", "en/a.parquet"]},
        ),
    ],
    ids=str,
)
def test_patterns_of_the_card_tell_the_splits(data_files: Any, expected: dict[str, list[str]]) -> None:
    assert splits(*FILES, configs=[{"config_name": "a", "data_files": data_files}]) == expected


def test_the_folder_of_a_configuration_is_where_its_names_are_looked_at() -> None:
    names = ["en/train.csv", "en/test.csv", "de/train.csv"]
    assert splits(*names, configs=[{"config_name": "en", "data_dir": "en"}]) == {
        "train": ["en/train.csv"],
        "test": ["en/test.csv"],
    }
    assert splits(*names, configs=[{"config_name": "en", "data_dir": "/en/", "data_files": "t*.csv"}]) == {
        "train": ["en/test.csv", "en/train.csv"]
    }


@pytest.mark.parametrize("folder", [".", "./", "/"])
def test_the_folder_of_a_configuration_may_be_the_whole_repository(folder: str) -> None:
    names = ["train.csv", "data/test.csv"]
    for files in ({}, {"data_files": [{"split": "train", "path": "train.csv"}, {"split": "test", "path": "data/*"}]}):
        assert splits(*names, configs=[{"config_name": "a", "data_dir": folder, **files}]) == {
            "train": ["train.csv"],
            "test": ["data/test.csv"],
        }


def test_the_folder_of_a_configuration_may_be_told_from_where_the_card_is() -> None:
    configs = [{"config_name": "a", "data_dir": "./en/./x", "data_files": "*.csv"}]
    assert splits("en/x/a.csv", "x/b.csv", configs=configs) == {"train": ["en/x/a.csv"]}


TWO = [{"config_name": "en", "data_files": "en/*"}, {"config_name": "de", "data_files": "de/*"}]


def test_a_configuration_is_taken_by_its_name() -> None:
    assert splits(*FILES, configs=TWO, config="de") == {"train": ["de/a.parquet"]}


@pytest.mark.parametrize("mark", [{"config_name": "default"}, {"default": True}])
def test_of_several_configurations_the_default_one_is_taken(mark: dict[str, Any]) -> None:
    assert splits(*FILES, configs=[TWO[0], TWO[1] | mark]) == {"train": ["de/a.parquet"]}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"configs": TWO}, "it has the configurations en, de; name one of them in the URI"),
        ({"configs": [one | {"default": True} for one in TWO]}, "it has the configurations en, de; name one"),
        ({"configs": TWO, "config": "fr"}, "it has no configuration 'fr', but en, de; correct the name"),
        ({"config": "en"}, "it has no configuration 'en', but default"),
    ],
)
def test_a_configuration_that_is_not_clear_is_refused_with_those_there_are(more: dict[str, Any], words: str) -> None:
    assert words in refused(*FILES, **more)


CONVERTED_FILES = [
    "en/train/0000.parquet",
    "en/train/0001.parquet",
    "en/test/0000.parquet",
    "de/partial-train/0000.parquet",
    "de/test/0000.parquet",
]


def test_the_parquet_that_the_hub_made_has_a_folder_for_each_split() -> None:
    assert splits(*CONVERTED_FILES, revision=CONVERTED, config="en") == {
        "train": ["en/train/0000.parquet", "en/train/0001.parquet"],
        "test": ["en/test/0000.parquet"],
    }


def test_a_split_of_which_the_hub_converted_a_part_alone_is_none() -> None:
    assert splits(*CONVERTED_FILES, revision=CONVERTED, config="de") == {"test": ["de/test/0000.parquet"]}


def test_a_dataset_that_a_script_makes_is_refused_with_the_branch_that_does_without() -> None:
    message = refused("rows.py", "train.csv")
    assert "its rows are made by the program rows.py in it, which is never run" in message
    assert "write @refs/convert/parquet behind the name" in message


def test_another_program_beside_the_rows_is_passed_over() -> None:
    assert splits("train.py", "a.csv") == {"train": ["a.csv"]}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a.zip", "b.zip", "c.txt"], "there are no files of rows in it (its files: 2 .zip, 1 .txt); Parquet"),
        (["data/train-sft-00000-of-00001.csv"], "would be of a split 'train-sft', which is no name of a split"),
        ([], "there are no files of rows in it; Parquet"),
        (["train.csv", "train.parquet"], "split train are of several formats (1 Csv, 1 Parquet), which may hold the"),
        (["train_test.csv", "train.csv"], "train_test.csv belongs to the splits train and test at once"),
    ],
)
def test_files_that_cannot_be_told_apart_are_refused(names: list[str], words: str) -> None:
    assert words in refused(*names)


def test_the_declared_format_chooses_among_the_files() -> None:
    assert splits("train.csv", "train.parquet", declared="Parquet") == {"train": ["train.parquet"]}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"data_files": "no/*"}, "the split 'train' of its configuration 'a' has no file of rows: no/*"),
        ({"data_files": "notes.txt"}, "has no file of rows: notes.txt"),
        ({"data_files": "https://host/x.csv"}, "leads out of the repository"),
        ({"data_files": "hf://datasets/other/x/a.csv"}, "leads out of the repository"),
        ({"data_files": "**.parquet"}, "has '**' beside other characters"),
        ({"data_files": []}, "is neither a path, a list of paths nor a list of split and path"),
        ({"data_files": 3}, "is neither a path"),
        ({"data_files": [{"split": "a-b", "path": "x"}]}, "is neither a path"),
        ({"data_files": [{"split": "a", "path": "x"}, {"split": "a", "path": "y"}]}, "each split once"),
        ({"data_files": [{"split": "a", "path": "x"}, "y"]}, "is neither a path"),
        ({"data_dir": 3}, "data_dir of the configuration 'a' in its README.md is no text"),
        ({"data_dir": "../b"}, "data_dir of the configuration 'a' in its README.md leads out of the repository"),
        (
            {"data_files": [{"split": "train", "path": "en/*"}, {"split": "test", "path": "en/a*"}]},
            "en/a.parquet belongs to the splits train and test at once",
        ),
    ],
    ids=str,
)
def test_a_configuration_that_cannot_be_followed_is_refused(config: dict[str, Any], words: str) -> None:
    assert words in refused(*FILES, configs=[{"config_name": "a", **config}])


@pytest.mark.parametrize(
    ("configs", "words"),
    [({"a": 1}, "is no list"), (["en"], "without config_name"), ([{"data_files": "x"}], "without")],
)
def test_a_list_of_configurations_that_is_none_is_refused(configs: Any, words: str) -> None:
    assert words in refused(*FILES, configs=configs)


def test_a_pattern_with_many_stars_is_decided_at_once() -> None:
    name = "a" * 250 + ".csv"
    assert "no file of rows" in refused(name, configs=[{"config_name": "x", "data_files": "*a" * 100 + "*b.csv"}])
    deep = "/".join("a" * 100) + "/x.csv"
    assert "no file of rows" in refused(deep, configs=[{"config_name": "x", "data_files": "**/a/" * 40 + "b.csv"}])


@pytest.mark.parametrize(
    ("text", "card"),
    [
        ("---\nconfigs:\n- config_name: a\n---\n# Rows\n", {"configs": [{"config_name": "a"}]}),
        ("\ufeff---\r\na: 1\r\n---\r\n", {"a": 1}),
        ("# Rows\n---\na: 1\n---\n", {}),
        ("---\na: 1\n", {}),
        ("---\n- a\n---\n", {}),
        ("", {}),
    ],
)
def test_the_metadata_of_a_card_stands_at_its_top(text: str, card: dict[str, Any]) -> None:
    assert card_of(text) == card


@pytest.mark.parametrize("text", ["a: [1", "a: !!python/object/apply:os.getcwd []", "a: 1\n b: 2"])
def test_metadata_that_is_no_plain_yaml_is_refused(text: str) -> None:
    with pytest.raises(LayoutError, match=r"the metadata in its README\.md is no YAML"):
        card_of(f"---\n{text}\n---\n")


@pytest.mark.parametrize(
    ("split", "part"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("dev", "validation"),
        ("val", "validation"),
        ("valid", "validation"),
        ("eval", "test"),
        ("evaluation", "test"),
        ("train_sft", None),
        ("validation_matched", None),
        ("testa", None),
    ],
)
def test_names_of_splits_stand_for_parts_as_on_the_hub(split: str, part: str | None) -> None:
    assert part_of_split(split) == part
