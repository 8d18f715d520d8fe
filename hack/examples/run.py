"""``make examples``: runs the examples with the real model on this machine and keeps what came out.

    python -m hack.examples.run [NAME ...]

Each job.yaml runs as it stands by ``finetune-trainer run``, one after the other, against a local S3 server that holds
the demo's model and the folder's rows, and a local hub, whose models are tiny ones of the tests. One line an example is
printed as it ends. A run of all keeps the table in benchmarks/results; a run of some only prints it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.common import ROOT, finish, machine, table, versions
from hack.examples.outcome import COLUMNS, Outcome, outcome_of
from tests.support.examples import EXAMPLES, HUB_MODELS, NAMES, Examples
from tests.support.hubserver import running_hub
from tests.support.s3server import running_s3

CACHE: Final = Path.home() / ".cache/finetune-demo"
MODEL: Final = "smollm2-135m-instruct"


def real_model() -> Path:
    """Make the demo's model unless it is there."""
    folder = CACHE / MODEL
    subprocess.run([sys.executable, str(ROOT / "hack/demo/make_model.py"), "--out", str(folder)], check=True)
    return folder


def run_one(examples: Examples, name: str, scratch: Path) -> Outcome:
    """Run an example to its end.

    Raises
    ------
    SystemExit
        It left no results; the end of its log is in the message.
    """
    examples.serve_rows(name)
    command = [str(Path(sys.executable).with_name("finetune-trainer")), "run", str(EXAMPLES / name / "job.yaml")]
    start = time.monotonic()
    done = subprocess.run(
        [*command, "--cpu", "--json", "--work-dir", str(scratch / name)],
        env={**os.environ, **examples.variables()},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - start
    result = examples.result(f"{name}/", "results.json")
    if not result.exists():
        raise SystemExit(f"{name} ended with {done.returncode} and no results:\n{done.stderr[-3000:]}")
    return outcome_of(name, result.read_text(encoding="utf-8"), seconds=seconds, accepted=done.returncode == 0)


def run_all(names: Sequence[str]) -> list[Outcome]:
    """Run examples one after the other, with a line for each."""
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="finetune-examples-") as folder:
        scratch = Path(folder)
        with running_s3(scratch / "s3") as s3, running_hub() as hub:
            examples = Examples(s3, hub, scratch / "served")
            examples.serve_models({MODEL: real_model()})
            for name in names:
                outcome = run_one(examples, name, scratch)
                print("  ".join(str(cell) for cell in outcome.cells()), flush=True)
                outcomes.append(outcome)
    return outcomes


def main() -> None:
    """Run what is named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="folders of examples/ (default: all)")
    names = parser.parse_args().names or list(NAMES)
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        parser.error(f"no examples: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    outcomes = run_all(names)
    text = table(COLUMNS, [outcome.cells() for outcome in outcomes])
    if set(names) < set(NAMES):
        print(f"\n{text}")
        return
    figures = {
        "machine": machine(),
        "versions": versions("torch", "transformers", "peft"),
        "model": MODEL,
        "stand_ins": sorted(HUB_MODELS),
        "examples": {outcome.name: outcome.figures() for outcome in outcomes},
    }
    finish("examples", figures, text)


if __name__ == "__main__":
    main()
