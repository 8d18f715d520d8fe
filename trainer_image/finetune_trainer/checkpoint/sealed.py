"""JSON documents that carry their own digest, so that a damaged one is recognised instead of believed.

For the small documents that one attempt of a job leaves for the next (``catalog.py``, ``kept_baseline.py``); what is
handed to others has its digest in the job's manifest or status instead.
"""

from __future__ import annotations

import json
from typing import Any

from finetune_api.digest import sha256_digest

__all__ = ["seal", "unseal"]


def seal(content: dict[str, Any]) -> bytes:
    """Return the document. Floats come back with the same bits, infinities too (so it is Python's JSON)."""
    return b'{"digest":"%b","content":%b}\n' % (sha256_digest(_text(content)).encode(), _text(content))


def unseal(data: bytes) -> dict[str, Any]:
    """Read what :func:`seal` returned.

    Raises
    ------
    ValueError
        It is damaged, or another document.
    """
    document = json.loads(data)
    content = document.get("content") if isinstance(document, dict) else None
    if not isinstance(content, dict) or document.get("digest") != sha256_digest(_text(content)):
        raise ValueError("the document is damaged")
    return content


def _text(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
