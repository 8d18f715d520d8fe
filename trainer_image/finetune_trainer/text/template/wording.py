"""Which wording of its template a train row gets: a pure function of the seed and of what the row says.

It depends on no other row, so that rows that are added, dropped or put in another order change nothing for the rest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = ["wording_of"]


def wording_of(seed: int, inputs: Mapping[str, Any], count: int) -> int:
    """Return the number of a row's wording, from 0 to below ``count``; each is as likely as another.

    Parameters
    ----------
    seed
        Of the split, which is the seed of everything about the data.
    inputs
        Field to value, without the answer.
    count
        How many wordings there are.
    """
    # Escaped, since half a surrogate pair has no bytes of its own.
    said = json.dumps([seed, inputs], sort_keys=True, separators=(",", ":"))
    return int.from_bytes(hashlib.blake2b(said.encode(), digest_size=8).digest(), "big") % count
