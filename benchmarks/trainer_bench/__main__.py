"""Speed and memory of the training loop against TRL's SFTTrainer and transformers' Trainer, on the same rows.

    python -m benchmarks.trainer_bench [--method Full] [--batch 4] [--steps 30] [--warm 10] [--tune]

Each way is a process of its own, one after the other. It trains one epoch over the same rows in the same order, with
the same learning rates, and then scores the same held-out rows: so the losses of all steps and the accuracy at the end
are compared, and a way that trains something else gets no ratio. The settings of the other two are the fastest of those
that were tried (``ways.py``, ``tuned.json``); ours runs as every job does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.common import ROOT, finish, machine, versions
from benchmarks.trainer_bench import figures, ways
from benchmarks.trainer_bench.rows import DATASETS, TokenRows, instructions, save_rows, topics
from benchmarks.trainer_bench.worker import SEED, Order, Settings
from finetune_trainer.training.plan import steps
from finetune_trainer.training.schedule import Schedule

__all__ = ["Bench", "in_order"]

CACHE: Final = ROOT / "benchmarks/.cache"
TRL_PYTHON: Final = ROOT / "benchmarks/.venv-trl/bin/python"
HELD: Final = 48
"""Rows that are scored at the end."""
THREADS: Final = "2"
RATES: Final = {"Full": 5e-5, "LoRA": 5e-4}
"""What a job takes by itself for a model of this size."""
TUNING: Final = (1, 4)
"""Steps of warm-up and timed steps of a try."""
MOST_SECONDS: Final = 100.0
"""Of a try; one that isn't done by then is many times slower than the others."""


def in_order(rows: TokenRows, batch: int) -> TokenRows:
    """Return the rows in the order of our steps, the longest of a step first, as our loop takes them."""
    lengths = np.diff(rows.offsets)
    order = [step[np.argsort(-lengths[step], kind="stable")] for step in steps(SEED, 0, len(rows), batch)]
    return rows.take([int(number) for step in order for number in step])


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all runs share."""

    model: Path
    method: str
    batch: int
    rows: Mapping[str, TokenRows]
    held: Mapping[str, TokenRows]

    def run(
        self, dataset: str, library: str, settings: Settings, *, warm: int, timed: int, most: float | None = None
    ) -> dict[str, Any] | None:
        """Run one way once and return the line that it ends with, or None if it took more than ``most`` seconds.

        Raises
        ------
        subprocess.CalledProcessError
            It failed; its error output is shown.
        """
        rows = self.rows[dataset].take(range(self.batch * (warm + timed)))
        files = {name: CACHE / f"{dataset}-{name}.npz" for name in ("rows", "held")}
        save_rows(rows if library == "ours" else in_order(rows, self.batch), files["rows"])
        # A try is about speed alone.
        save_rows(self.held[dataset].take(range(HELD if most is None else 1)), files["held"])
        order = Order(
            model=str(self.model),
            rows=str(files["rows"]),
            held=str(files["held"]),
            method=self.method,
            batch=self.batch,
            warm=warm,
            learning_rate=RATES[self.method],
            factors=tuple(
                map(Schedule.of("Cosine", total=warm + timed, warmup_percent="5").factor, range(warm + timed))
            ),
            settings=settings if library == "ours" else {"library": library, **settings},
        )
        ours = library == "ours"
        module = f"benchmarks.trainer_bench.{'ours' if ours else 'trl_side'}"
        try:
            done = subprocess.run(
                [sys.executable if ours else TRL_PYTHON, "-m", module, order.to_json()],
                cwd=ROOT,
                env=environment(),
                capture_output=True,
                text=True,
                check=False,
                timeout=most,
            )
        except subprocess.TimeoutExpired:
            return None
        if done.returncode:
            sys.stderr.write(done.stderr)
            raise subprocess.CalledProcessError(done.returncode, done.args)
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        if not result["steps"]:
            raise RuntimeError(f"{library} with {settings} took no step after {warm} of warm-up")
        return result

    def tune(self, dataset: str, hopeless: set[str]) -> dict[str, list[ways.Tried]]:
        """Try the settings of each library on a dataset.

        Parameters
        ----------
        hopeless
            What took too long on another dataset, and does so on this one; what is found is added.
        """
        rows = self.rows[dataset]

        def measure(library: str, settings: Settings) -> dict[str, Any] | None:
            kind = ways.slow_kind(settings)
            if kind in hopeless:
                return None
            result = self.run(dataset, library, settings, warm=TUNING[0], timed=TUNING[1], most=MOST_SECONDS)
            if result is None and kind != "float32":
                hopeless.add(kind)
            told = "took too long" if result is None else f"{figures.speed(result):.0f} tokens/s"
            print(f"try {dataset}, {library}, {settings}: {told}", flush=True)
            return result

        step = ways.Step(rows=self.batch, tokens=round(self.batch * len(rows.tokens) / len(rows)), longest=rows.longest)
        tried = {"trl": ways.search("trl", measure, step)}
        tried["trainer"] = ways.search("trainer", measure, step, trl=tried["trl"])
        tried["ours"] = ways.search("ours", measure, step)
        return tried


def environment() -> dict[str, str]:
    """Return the same for all: threads that sleep while they wait, as the trainer's image has it, and no network."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": THREADS,
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def prepare_inputs() -> tuple[Path, dict[str, TokenRows], dict[str, TokenRows]]:
    """Make the demo's model and rows unless they are there; return the model, and rows to train and to score."""
    from transformers import AutoTokenizer  # noqa: PLC0415 - seconds

    model, rows_file = CACHE / "smollm2-135m-instruct", CACHE / "topics.jsonl"
    CACHE.mkdir(parents=True, exist_ok=True)
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
    return model, {name: made[name][0] for name in DATASETS}, {name: made[name][1] for name in DATASETS}


def kind_of_processor() -> str:
    """Name what decides which settings are fast: instruction set, bfloat16 units, threads."""
    import torch  # noqa: PLC0415

    units = "with" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "without"
    return f"{torch.backends.cpu.get_cpu_capability()}, {units} bfloat16 units, {THREADS} threads"


def tuned(bench: Bench, *, anew: bool) -> dict[str, Any]:
    """Return what was tried, by dataset and library, with its day; tries it where nothing is kept.

    Each dataset's part is kept as soon as it is there, so that a run that was stopped goes on with the next.
    """
    kind = kind_of_processor()
    kept = (None if anew else ways.load(kind, bench.method, bench.batch)) or {
        "date": date.today().isoformat(),
        "versions": versions("torch", "transformers") | {"trl": trl_version()},
        "tried": {},
    }
    hopeless = ways.hopeless(kind)
    for dataset in bench.rows:
        if dataset not in kept["tried"]:
            tried = bench.tune(dataset, hopeless)
            kept["tried"][dataset] = {library: [t.to_json() for t in ts] for library, ts in tried.items()}
            ways.save(kind, bench.method, bench.batch, kept)
    return {**kept, "kind": kind}


def main() -> None:
    """Measure and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=("Full", "LoRA"), default="Full")
    parser.add_argument("--batch", type=int, default=4, help="rows of an optimizer step")
    parser.add_argument("--steps", type=int, default=30, help="timed optimizer steps")
    parser.add_argument("--warm", type=int, default=10, help="optimizer steps before them")
    parser.add_argument("--tune", action="store_true", help="try the settings anew")
    arguments = parser.parse_args()
    begin = time.monotonic()
    model, rows, held = prepare_inputs()
    bench = Bench(model=model, method=arguments.method, batch=arguments.batch, rows=rows, held=held)
    settings = tuned(bench, anew=arguments.tune)
    text, figures_of = [], {}
    same = True
    for dataset in rows:
        tried = {library: [ways.Tried(**t) for t in found] for library, found in settings["tried"][dataset].items()}
        rows_of_table = ways.ways(tried, beginning=dataset == "topics")
        results: dict[str, dict[str, Any]] = {}
        for way in rows_of_table:
            result = bench.run(dataset, way.library, way.settings, warm=arguments.warm, timed=arguments.steps)
            assert result is not None  # noqa: S101 - no limit was given
            results[way.name] = result
            print(
                f"{dataset}, {way.name}: {figures.speed(result):.0f} tokens/s, {result['peak_mib']:.0f} MiB", flush=True
            )
        parities = {
            way.name: figures.parity(
                results["ours"], results[way.name], same_steps=way.settings.get("layout") != "packed"
            )
            for way in rows_of_table
            if way.name != "ours"
        }
        same = same and all(p.same for p in parities.values())
        text.append(section(dataset, bench, results, rows_of_table, parities, tried))
        figures_of[dataset] = summary(results, rows_of_table, parities)
    report(arguments, settings, text, figures_of, minutes=(time.monotonic() - begin) / 60)
    if not same:
        raise SystemExit("some ways didn't train the same (too much difference in the table): their ratios say nothing")


def section(  # noqa: PLR0917 - what a dataset's part of the report is made of
    dataset: str,
    bench: Bench,
    results: Mapping[str, Mapping[str, Any]],
    rows_of_table: list[ways.Way],
    parities: Mapping[str, figures.Parity],
    tried: Mapping[str, list[ways.Tried]],
) -> str:
    """Return what is said about a dataset."""
    rows = bench.rows[dataset]
    about = f"{dataset}: rows of {len(rows.tokens) / len(rows):.0f} tokens on average, the longest {rows.longest}."
    parts = [about, figures.lines(results, rows_of_table, parities)]
    names = {"trl": "TRL", "trainer": "transformers Trainer", "ours": "ours, for comparison (a job takes the default)"}
    parts += [f"Tried for {name}:\n{figures.tries(tried[library])}" for library, name in names.items()]
    return "\n\n".join(parts)


def summary(
    results: Mapping[str, Mapping[str, Any]],
    rows_of_table: list[ways.Way],
    parities: Mapping[str, figures.Parity],
) -> dict[str, Any]:
    """Return a dataset's figures for programs."""
    ratios = figures.ratios(results, rows_of_table)
    others = [results[way.name]["peak_mib"] for way in rows_of_table if way.library == "trl"]
    return {
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
        "memory_vs_trl": round(results["ours"]["peak_mib"] / min(others), 3),
        "precision": results["ours"]["precision"],
        "ways": {
            way.name: {
                "settings": way.settings,
                "tokens_per_second": round(figures.speed(results[way.name]), 1),
                "rows_per_second": round(figures.speed(results[way.name], "rows"), 3),
                "cpu_seconds": results[way.name]["cpu_seconds"],
                "spread": round(figures.spread(results[way.name]), 3),
                "peak_mib": round(results[way.name]["peak_mib"]),
                "losses": [round(loss, 4) for loss in results[way.name]["losses"]],
                "held_loss": round(results[way.name]["held_loss"], 4),
                "held_tokens_right": round(results[way.name]["held_tokens_right"], 4),
                "held_rows_right": round(results[way.name]["held_rows_right"], 4),
                "same_training": way.name == "ours" or parities[way.name].same,
            }
            for way in rows_of_table
        },
    }


def report(
    arguments: argparse.Namespace,
    settings: Mapping[str, Any],
    sections: list[str],
    figures_of: Mapping[str, Mapping[str, Any]],
    *,
    minutes: float,
) -> None:
    """Print and keep the result; the headline is the least ratio of the datasets."""
    used = versions("torch", "transformers") | {"trl": trl_version()}
    here = machine()
    head = (
        f"{arguments.method} fine-tuning of SmolLM2-135M on a CPU: {here['cpu']}, {settings['kind']}; "
        f"{', '.join(f'{name} {value}' for name, value in used.items())}.\n"
        f"{arguments.batch} rows a step, {arguments.steps} timed steps after {arguments.warm}; each way a process of "
        f"its own, one after the other, {minutes:.0f} minutes in all; settings tried on {settings['date']}.\n"
        f"The same training: losses differ by at most {figures.STEP_BOUND:.0%} in any step and "
        f"{figures.MEAN_BOUND:.0%} in all (packs: {figures.STEP_BOUND:.0%}), held-out shares by at most "
        f"{figures.RIGHT_BOUND:.0%}. Precision of ours: "
        f"{', '.join(sorted({f['precision'] for f in figures_of.values()}))}."
    )
    result = {
        "method": arguments.method,
        "batch": arguments.batch,
        "timed_steps": arguments.steps,
        "warm_up_steps": arguments.warm,
        "ratio_vs_best": min(f["ratios"]["best"] for f in figures_of.values()),
        "memory_vs_trl": max(f["memory_vs_trl"] for f in figures_of.values()),
        "minutes": round(minutes, 1),
        "datasets": figures_of,
        "tuned": settings,
        "machine": here,
        "versions": used,
    }
    finish("trainer" if arguments.method == "Full" else "trainer-lora", result, "\n\n".join([head, *sections]))


def trl_version() -> str:
    """Version of TRL in the other environment."""
    command = [str(TRL_PYTHON), "-c", "from importlib.metadata import version; print(version('trl'))"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
