"""Edges of the bins that no reference implementation is asked about."""

from __future__ import annotations

import numpy as np

from finetune_trainer.evaluation.metrics.over_choices import ECE, reliability


def test_a_confidence_at_or_beyond_an_end_lies_in_the_outer_bin() -> None:
    kept = np.array([[0.0, 1.0], [np.nextafter(1.0, 2.0), 0.0]])
    assert [(one.low, one.high, one.rows) for one in reliability(kept)] == [(0.0, 1 / 15, 1), (14 / 15, 1.0, 1)]
    assert ECE.of_all(kept) == 1.0
