"""Keeps torch out of a process that only tokenises.

transformers imports torch wherever it finds it, for its tokenizers too, which do without: some 600 MB of memory and
seconds of start, for a stage that needs a tenth of either itself.
"""

from __future__ import annotations

import os
import sys

__all__ = ["hide_torch"]


def hide_torch() -> None:
    """Make every later ``import torch`` of this process fail, as if it were not installed; not undone.

    Does nothing where torch has been imported already.
    """
    if "torch" in sys.modules:
        return
    # None makes imports fail (Python Language Reference, 5.3.1), and find_spec answer that there is no such module.
    sys.modules["torch"] = None  # type: ignore[assignment]  # the language allows it, typeshed doesn't say so
    # Else transformers says in every log that models won't be available.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
