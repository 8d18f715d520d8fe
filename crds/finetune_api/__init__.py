"""The contract between the users, the operator and the trainer of finetune.dev.

Everything that two sides must agree on stands here once: the two kinds, the report that a stage leaves behind, the
reason table, names and labels. The CRD YAML beside this package is generated from these types. The package imports
neither the operator nor the trainer, and nothing heavier than pydantic.
"""

from __future__ import annotations

from typing import Final

__all__ = ["API_VERSION", "GROUP", "JOB_KIND", "JOB_PLURAL", "RUNTIME_KIND", "RUNTIME_PLURAL", "VERSION"]

__version__: Final = "0.1.0"
"""Version of the project; the images carry the code, not an installed package, so it stands here."""

GROUP: Final = "finetune.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
JOB_KIND: Final = "FineTuneJob"
JOB_PLURAL: Final = "finetunejobs"
RUNTIME_KIND: Final = "FineTuneRuntime"
RUNTIME_PLURAL: Final = "finetuneruntimes"
