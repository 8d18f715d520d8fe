"""Keeps the scores of the untouched model, so that an attempt that goes on doesn't measure them again.

Row by row, since the test after training is compared with each of them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from pydantic import TypeAdapter

from finetune_trainer.checkpoint.format import CHECKPOINTS, Identity
from finetune_trainer.checkpoint.sealed import seal, unseal
from finetune_trainer.errors import StageError
from finetune_trainer.evaluation.results import Evaluation
from finetune_trainer.model.device import Precision
from finetune_trainer.storage.store import Store

__all__ = ["BASELINE", "FEW_SHOT", "Baseline", "load_baseline", "store_baseline"]

BASELINE: Final = CHECKPOINTS + "baseline.json"
FEW_SHOT: Final = CHECKPOINTS + "few_shot.json"
_PRECISION: Final = TypeAdapter[Precision](Precision)

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The untouched model's scores, the precision that they were computed in, and whether answers shared a pass."""

    evaluation: Evaluation
    precision: Precision
    branching: bool | None


def store_baseline(store: Store, identity: Identity, baseline: Baseline, key: str = BASELINE) -> None:
    """Store the scores; where that fails the next attempt measures them again, so it is only a warning."""
    content = {
        "identity": identity.model_dump(),
        "precision": baseline.precision,
        "branching": baseline.branching,
        "evaluation": baseline.evaluation.to_wire(),
    }
    try:
        store.put_bytes(key, seal(content))
    except StageError as error:
        log.warning("the baseline could not be kept for a later attempt: %s", error)


def load_baseline(store: Store, identity: Identity, key: str = BASELINE) -> Baseline | None:
    """Return what an earlier attempt stored; None where there is nothing, or nothing that fits.

    Raises
    ------
    StageError
        AccessDenied, CredentialsNotFound, StorageUnavailable.
    """
    if store.size(key) is None:
        return None
    try:
        content = unseal(store.get_bytes(key))
        if difference := identity.difference(Identity.model_validate(content["identity"])):
            log.info("%s%s belongs to another training (%s differs); ignored", store.uri, key, difference)
            return None
        return Baseline(
            evaluation=Evaluation.from_wire(content["evaluation"]),
            precision=_PRECISION.validate_python(content["precision"]),
            branching=content["branching"],
        )
    except (ValueError, KeyError) as error:
        log.warning("the baseline %s%s can't be used: %s", store.uri, key, " ".join(str(error).split())[:300])
        return None
