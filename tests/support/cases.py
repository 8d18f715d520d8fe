"""What a spec may and may not say: one table for the two readers of the contract.

``tests/unit/api/test_agreement.py`` feeds it to the pydantic types, ``tests/apiserver/test_validation.py`` to a real
API server, so that a job that one accepts is never refused by the other. Values and messages are written out in the
tables rather than taken from the types: a changed bound or message fails until the table says so too.
"""

from __future__ import annotations

from typing import Final

from tests.support.casekit import Case
from tests.support.cases_job import JOB_CASES
from tests.support.cases_runtime import RUNTIME_CASES

__all__ = ["ACCEPTED", "CASES", "REFUSED"]

CASES: Final[list[Case]] = [*JOB_CASES, *RUNTIME_CASES]
ACCEPTED: Final[list[Case]] = [case for case in CASES if not case.field]
REFUSED: Final[list[Case]] = [case for case in CASES if case.field]
