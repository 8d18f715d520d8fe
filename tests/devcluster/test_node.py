"""Whose word counts for the node's health."""

from typing import Any

from devclusterlib import node

HEARD = 1767225600.0  # 2026-01-01T00:00:00Z


def ready(status: str) -> list[dict[str, Any]]:
    return [
        {"type": "DiskPressure", "status": "False", "lastHeartbeatTime": "2026-01-01T00:00:00Z"},
        {"type": "Ready", "status": status, "lastHeartbeatTime": "2026-01-01T00:00:00Z"},
    ]


def test_the_running_kubelets_word_counts() -> None:
    assert node.says_ready(ready("True"), HEARD - 60)
    assert not node.says_ready(ready("False"), HEARD - 60)
    assert not node.says_ready(ready("Unknown"), HEARD - 60)


def test_whole_seconds_are_enough() -> None:
    assert node.says_ready(ready("True"), HEARD + 0.9)


def test_an_earlier_kubelets_word_does_not_count() -> None:
    assert not node.says_ready(ready("True"), HEARD + 5)


def test_a_node_without_conditions_is_not_ready() -> None:
    assert not node.says_ready([], HEARD)
