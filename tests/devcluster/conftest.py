"""Lets the tests import the development cluster's library, which lives outside the product's packages."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "hack" / "devcluster"))
