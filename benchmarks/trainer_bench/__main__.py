"""Speed of the training loop against TRL's SFTTrainer, on the same model, rows, masks, threads and step size.

    python -m benchmarks.trainer_bench [--rounds 3] [--epochs 2] [--method Full] [--tune]

Each run is a process of its own, one after the other, in turns: ours, TRL tuned with padding, TRL tuned with packing,
TRL as its documentation sets it up. What counts are real tokens, padding left out, over whole epochs after a first one
that warms up. First, every way trains one step on the same rows: the losses must agree, or no ratio is printed.

Ours trains bfloat16 weights with a 32-bit master copy and sums gradients in 32 bits. TRL has no such mode: tuned, it
trains bfloat16 weights as they are, which costs less and loses small updates; by default it trains 32-bit weights under
bfloat16 autocast.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from transformers import AutoTokenizer

from benchmarks.common import ROOT, finish, machine, table, versions
from benchmarks.trainer_bench.rows import DATASETS, TokenRows, instructions, load_rows, save_rows, topics
from benchmarks.trainer_bench.worker import BATCH_SIZE, Order

__all__ = ["OURS", "VARIANTS", "Side", "measure", "ratios", "spread"]

CACHE: Final = ROOT / "benchmarks/.cache"
TRL_PYTHON: Final = ROOT / "benchmarks/.venv-trl/bin/python"
ROWS: Final = 24
"""Rows of an epoch: three optimizer steps."""
LOSS_TOLERANCE: Final = 0.01
"""Relative; other kernels and another place of rounding in bfloat16 account for a few thousandths."""
THREADS: Final = "2"


@dataclass(frozen=True)
class Side:
    """A way to train: its name in the table, and TRL's variant with its settings."""

    name: str
    variant: str = ""
    settings: tuple[tuple[str, int | str | bool], ...] = ()


OURS: Final = Side("ours")
VARIANTS: Final = (
    Side("TRL padded, tuned", "padded", (("dtype", "bfloat16"), ("micro", 8))),
    Side("TRL packed, tuned", "packed", (("dtype", "bfloat16"), ("micro", 1), ("length", 512))),
    Side("TRL default", "default"),
)
CANDIDATES: Final = (
    *(
        Side(f"padded, {dtype}, {micro} rows at once", "padded", (("dtype", dtype), ("micro", micro)))
        for dtype in ("bfloat16", "float32")
        for micro in (8, 4, 2)
    ),
    *(
        Side(f"packed to {length}, {dtype}, {micro} packs at once", "packed", settings)
        for dtype, length, micro in (
            ("bfloat16", 1024, 1),
            ("bfloat16", 512, 1),
            ("bfloat16", 512, 2),
            ("bfloat16", 256, 1),
            ("bfloat16", 256, 4),
            ("float32", 512, 1),
        )
        for settings in ((("dtype", dtype), ("micro", micro), ("length", length)),)
    ),
)
"""What ``--tune`` tries; the best of each kind stand in :data:`VARIANTS`."""


def measure(side: Side, *, model: Path, rows: Path, method: str, epochs: int) -> dict[str, Any]:
    """Run one side once and return the line that it ends with.

    Raises
    ------
    subprocess.CalledProcessError
        It failed; its error output is shown.
    """
    module = "trl_side" if side.variant else "ours"
    order = Order(
        model=str(model),
        rows=str(rows),
        method=method,
        epochs=epochs,
        variant=side.variant,
        settings=dict(side.settings),
    )
    done = subprocess.run(
        [TRL_PYTHON if side.variant else sys.executable, "-m", f"benchmarks.trainer_bench.{module}", order.to_json()],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            # The same threads for both, which sleep while they wait, as the trainer's image has it.
            "OMP_NUM_THREADS": THREADS,
            "OMP_WAIT_POLICY": "PASSIVE",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise subprocess.CalledProcessError(done.returncode, done.args)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def speed(result: dict[str, Any]) -> float:
    """Real tokens a second."""
    return float(result["tokens"]) / float(result["seconds"])


def spread(values: Sequence[float]) -> float:
    """Distance of the extremes as a share of the median."""
    return (max(values) - min(values)) / statistics.median(values)


def ratios(speeds: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    """Return ours against each way of TRL, medians over medians, by dataset; ``best`` is against the fastest of it."""
    out = {}
    for dataset, by_side in speeds.items():
        medians = {name: statistics.median(values) for name, values in by_side.items()}
        ours = medians.pop(OURS.name)
        out[dataset] = {name: ours / median for name, median in medians.items()} | {
            "best": ours / max(medians.values())
        }
    return out


def prepare_inputs(model: Path, rows_file: Path) -> dict[str, Path]:
    """Make the demo's model and rows unless they are there, and return the token rows of each dataset."""
    for script, target in (("make_model", model), ("make_rows", rows_file)):
        subprocess.run(
            [sys.executable, f"hack/demo/{script}.py", "--out", str(target), "--cache", str(CACHE)],
            cwd=ROOT,
            check=True,
            stdout=subprocess.DEVNULL,
        )
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = [json.loads(line)["text"] for line in rows_file.read_text(encoding="utf-8").splitlines()]
    made = {
        "topics": topics(rows_file, tokenizer, CACHE / "topics-prepared"),
        "instructions": instructions(texts, tokenizer),
    }
    paths = {}
    for name in DATASETS:
        paths[name] = CACHE / f"{name}.npz"
        save_rows(made[name].first(ROWS), paths[name])
    return paths


def check_losses(model: Path, paths: dict[str, Path], method: str) -> dict[str, dict[str, float]]:
    """Return the loss of every way's first step on the same rows.

    Raises
    ------
    SystemExit
        They differ by more than rounding: the ways don't train the same thing.
    """
    losses: dict[str, dict[str, float]] = {}
    for dataset, path in paths.items():
        losses[dataset] = {}
        for side in (OURS, *VARIANTS):
            losses[dataset][side.name] = measure(side, model=model, rows=path, method=method, epochs=0)["loss"]
            print(f"first loss, {dataset}, {side.name}: {losses[dataset][side.name]:.4f}", flush=True)
        ours = losses[dataset][OURS.name]
        if any(abs(loss - ours) > LOSS_TOLERANCE * ours for loss in losses[dataset].values()):
            raise SystemExit(f"the losses on {dataset} differ by more than {LOSS_TOLERANCE:.0%}: not the same training")
    return losses


def tune(model: Path, paths: dict[str, Path], method: str) -> None:
    """Print the speed of every candidate, best first."""
    for dataset, path in paths.items():
        found = []
        for side in CANDIDATES:
            found.append((speed(measure(side, model=model, rows=path, method=method, epochs=2)), side.name))
            print(f"{dataset}, {side.name}: {found[-1][0]:.0f} tokens/s", flush=True)
        print(f"\n{dataset}\n" + "\n".join(f"{value:8.0f}  {name}" for value, name in sorted(found, reverse=True)))


def main() -> None:
    """Measure and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2, help="passes over the rows, the first of which warms up")
    parser.add_argument("--method", choices=("Full", "LoRA"), default="Full")
    parser.add_argument("--tune", action="store_true", help="only try settings of TRL")
    arguments = parser.parse_args()
    model, method = CACHE / "smollm2-135m-instruct", arguments.method
    CACHE.mkdir(parents=True, exist_ok=True)
    paths = prepare_inputs(model, CACHE / "topics.jsonl")
    if arguments.tune:
        tune(model, paths, method)
        return
    losses = check_losses(model, paths, method)
    speeds: dict[str, dict[str, list[float]]] = {d: {s.name: [] for s in (OURS, *VARIANTS)} for d in paths}
    memory: dict[str, float] = {}
    for number in range(1, arguments.rounds + 1):
        for dataset, path in paths.items():
            for side in (OURS, *VARIANTS):
                result = measure(side, model=model, rows=path, method=method, epochs=arguments.epochs)
                speeds[dataset][side.name].append(speed(result))
                memory[side.name] = max(memory.get(side.name, 0), result["peak_mib"])
                print(f"round {number}, {dataset}, {side.name}: {speed(result):.0f} tokens/s", flush=True)
    report(arguments, {name: load_rows(path) for name, path in paths.items()}, losses, speeds, memory)


def report(
    arguments: argparse.Namespace,
    rows: dict[str, TokenRows],
    losses: dict[str, dict[str, float]],
    speeds: dict[str, dict[str, list[float]]],
    memory: dict[str, float],
) -> None:
    """Print and keep the result; the headline is the smaller of the two datasets' ratios."""
    found = ratios(speeds)
    lines = [
        [
            f"{dataset}: {name}",
            round(statistics.median(values)),
            f"{spread(values):.1%}",
            "" if name == OURS.name else f"{found[dataset][name]:.2f}",
            f"{losses[dataset][name]:.4f}",
        ]
        for dataset, by_side in speeds.items()
        for name, values in by_side.items()
    ]
    sizes = "; ".join(
        f"{name}: {len(r)} rows of {len(r.tokens) / len(r):.0f} tokens on average, the longest {r.longest}"
        for name, r in rows.items()
    )
    text = "\n".join(
        [
            f"{arguments.method} fine-tuning of SmolLM2-135M, {BATCH_SIZE} rows a step, {THREADS} threads; {sizes}.",
            f"Medians of {arguments.rounds} rounds over {arguments.epochs - 1} epochs each, one run after the other.",
            "",
            table(["way", "tokens/s", "spread", "ours is faster by", "first loss"], lines),
        ]
    )
    figures = {
        "method": arguments.method,
        "ratio_vs_trl_best": round(min(r["best"] for r in found.values()), 3),
        "ratio_vs_trl_default": round(min(r["TRL default"] for r in found.values()), 3),
        "spread": round(max(spread(values) for by_side in speeds.values() for values in by_side.values()), 3),
        "ratios": {d: {name: round(value, 3) for name, value in r.items()} for d, r in found.items()},
        "tokens_per_second": {d: {n: [round(v, 1) for v in vs] for n, vs in s.items()} for d, s in speeds.items()},
        "first_loss": losses,
        "peak_mib": {name: round(value) for name, value in memory.items()},
        "trl_settings": {side.name: dict(side.settings) for side in VARIANTS},
        "machine": machine(),
        "versions": versions("torch", "transformers") | {"trl": trl_version()},
    }
    finish("trainer" if arguments.method == "Full" else "trainer-lora", figures, text)


def trl_version() -> str:
    """Version of TRL in the other environment."""
    command = [str(TRL_PYTHON), "-c", "from importlib.metadata import version; print(version('trl'))"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
