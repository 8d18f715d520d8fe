"""What came out of an example, from its results.json: pure, so that a table can be tested without a model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["COLUMNS", "Outcome", "outcome_of"]

COLUMNS: Final = ("example", "metric", "before", "few-shot", "after", "p", "train", "test rows", "seconds", "end")
NONE: Final = "-"


@dataclass(frozen=True)
class Outcome:
    """One example's line; scores are the text of the report, rounded nowhere."""

    name: str
    metric: str
    before: str
    few_shot: str | None
    after: str
    interval: tuple[str, str] | None
    p_value: str | None
    train: int
    test: int
    seconds: float
    accepted: bool
    references: dict[str, str]

    def cells(self) -> tuple[object, ...]:
        """What stands in the table."""
        return (
            self.name,
            self.metric,
            self.before,
            self.few_shot or NONE,
            self.after,
            self.p_value or NONE,
            self.train,
            self.test,
            round(self.seconds),
            "Succeeded" if self.accepted else "NotAccepted",
        )

    def figures(self) -> dict[str, Any]:
        """What programs read."""
        return {
            "metric": self.metric,
            "before": self.before,
            "few_shot": self.few_shot,
            "after": self.after,
            "after_ci95": self.interval,
            "p_value": self.p_value,
            "references": self.references,
            "train_rows": self.train,
            "test_rows": self.test,
            "seconds": round(self.seconds),
            "accepted": self.accepted,
        }


def outcome_of(name: str, results_json: str, *, seconds: float, accepted: bool) -> Outcome:
    """Read what the trainer stored."""
    document = json.loads(results_json)
    results, rows = document["results"], document["dataset"]
    interval = results["test"].get("ci95")
    return Outcome(
        name=name,
        metric=results["metric"],
        before=results["baseline"]["score"],
        few_shot=results.get("fewShot", {}).get("score"),
        after=results["test"]["score"],
        interval=tuple(interval) if interval else None,
        p_value=results.get("pValue"),
        train=rows["train"],
        test=results["test"]["total"],
        seconds=seconds,
        accepted=accepted,
        references={one["name"]: one["score"] for one in results.get("references", [])},
    )
