"""The prepare stage does without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

PREPARES = """
import importlib.util, sys
from finetune_trainer.process.notorch import hide_torch
hide_torch()
import finetune_trainer.job.prepare
from transformers import AutoTokenizer
from transformers.utils import is_torch_available
assert sys.modules["torch"] is None and not is_torch_available()
"""
TOO_LATE = """
import sys, torch
from finetune_trainer.process.notorch import hide_torch
hide_torch()
assert sys.modules["torch"] is torch
"""


@pytest.mark.parametrize("script", [PREPARES, TOO_LATE], ids=["all of prepare loads", "not undone once loaded"])
def test_torch_is_hidden_unless_it_is_there_already(script: str) -> None:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
