"""Names of classes in the metadata of a dataset's card."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_trainer.storage.hubclasses import classes_of


def info(names: Any, **more: Any) -> dict[str, Any]:
    features = [{"name": "text", "dtype": "string"}, {"name": "label", "dtype": {"class_label": {"names": names}}}]
    return {"features": features, **more}


@pytest.mark.parametrize("names", [{"0": "neg", "1": "pos"}, {1: "pos", 0: "neg"}, ["neg", "pos"]])
def test_names_stand_in_the_order_of_their_numbers(names: Any) -> None:
    assert classes_of({"dataset_info": info(names)}, "default") == (("label", ("neg", "pos")),)


def test_numbers_from_ten_on_are_numbers_and_no_words() -> None:
    names = {str(number): f"c{number}" for number in range(12)}
    ((_, found),) = classes_of({"dataset_info": info(names)}, "default")
    assert found == tuple(f"c{number}" for number in range(12))


def test_each_configuration_has_its_own() -> None:
    infos = [info(["a"], config_name="one"), info(["b"], config_name="two")]
    assert classes_of({"dataset_info": infos}, "two") == (("label", ("b",)),)
    assert classes_of({"dataset_info": infos}, "three") == ()


def test_what_is_told_of_one_alone_is_meant_where_the_card_names_no_configurations() -> None:
    card: dict[str, Any] = {"dataset_info": info(["a"], config_name="plain_text")}
    assert classes_of(card, "default") == (("label", ("a",)),)
    assert classes_of({**card, "configs": [{"config_name": "default"}]}, "default") == ()


@pytest.mark.parametrize("names", [{"0": "a", "2": "b"}, {"1": "a", "2": "b"}, {"x": "a"}, {}, [], "a", None])
def test_names_that_are_not_numbered_from_0_without_a_gap_are_none(names: Any) -> None:
    assert classes_of({"dataset_info": info(names)}, "default") == ()


@pytest.mark.parametrize(
    "card", [{}, {"dataset_info": "x"}, {"dataset_info": {"features": "x"}}, {"dataset_info": {"features": ["x", {}]}}]
)
def test_a_card_without_classes_has_none(card: dict[str, Any]) -> None:
    assert classes_of(card, "default") == ()
