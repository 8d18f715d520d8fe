"""What the process finds around it: mount points and the scratch folder, each of which a variable can move.

In a pod the defaults are what the operator mounts; tests and local runs set the variables.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from finetune_api.names import (
    CREDENTIALS_DIR,
    ENV_POD_UID,
    ENV_PROGRESS_URL,
    ENV_WORK_DIR,
    MODEL_CACHE_DIR,
    PROGRESS_DIR,
    TERMINATION_LOG,
)

__all__ = ["ENV_CREDENTIALS_DIR", "ENV_TERMINATION_LOG", "Environment"]

ENV_CREDENTIALS_DIR: Final = "FINETUNE_CREDENTIALS_DIR"
ENV_TERMINATION_LOG: Final = "FINETUNE_TERMINATION_LOG"


@dataclass(frozen=True, slots=True)
class Environment:
    """Places on this machine.

    Attributes
    ----------
    credentials_dir
        One folder of key files a role.
    work_dir
        Exists and is writable; model, rows and artifacts lie below it while a stage runs.
    termination_log
        Where the report goes; None in a local run.
    pod_uid
        UID of the pod; None in a local run.
    model_cache_dir
        Where the volume of the runtime's model cache is mounted, if it has one.
    progress_url, progress_dir
        Where live reports go, and the folder of the token and certificate for it; None where nobody takes them.
    """

    credentials_dir: Path
    work_dir: Path
    termination_log: Path | None = None
    pod_uid: str | None = None
    model_cache_dir: Path = Path(MODEL_CACHE_DIR)
    progress_url: str | None = None
    progress_dir: Path = Path(PROGRESS_DIR)

    @staticmethod
    def of_pod(variables: Mapping[str, str] = os.environ) -> Environment:
        """Return the places of a pod."""
        return Environment(
            credentials_dir=Path(variables.get(ENV_CREDENTIALS_DIR, CREDENTIALS_DIR)),
            work_dir=Path(variables.get(ENV_WORK_DIR) or tempfile.gettempdir()),
            termination_log=Path(variables.get(ENV_TERMINATION_LOG, TERMINATION_LOG)),
            pod_uid=variables.get(ENV_POD_UID),
            progress_url=variables.get(ENV_PROGRESS_URL) or None,
        )

    def secrets(self) -> list[str]:
        """Return every mounted value, to be kept out of all output."""
        files = [path for path in self.credentials_dir.glob("*/*") if path.is_file()]
        values = [path.read_text(encoding="utf-8", errors="replace").strip() for path in files]
        return [value for value in values if value]
