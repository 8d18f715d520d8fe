"""One run of this repository's training loop, as a job runs it; started by ``__main__.py``.

``settings``: ``shared`` (False: what all rows begin with is computed for each of them), ``tokens`` (of a micro-batch);
without them it is what every job does.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch

from benchmarks.trainer_bench.rows import TokenRows, load_rows
from benchmarks.trainer_bench.worker import SEED, Order, Timer, quality
from finetune_api.job import LoRA
from finetune_api.status import DatasetSummary
from finetune_trainer.data.parts import PARTS, Part
from finetune_trainer.model.device import configure_threads, resolve_precision
from finetune_trainer.model.load import load_model
from finetune_trainer.model.lora import add_lora
from finetune_trainer.prepare.prepared import EncodedPart, Prepared
from finetune_trainer.training import beginning
from finetune_trainer.training.limits import default_limits
from finetune_trainer.training.loop import train
from finetune_trainer.training.observer import LogEntry, Silent
from finetune_trainer.training.plan import Hyperparameters, steps


class _Watch(Silent):
    """Notes every optimizer step; on a CPU there is an entry for each."""

    def __init__(self, timer: Timer, plan: list[tuple[int, int]]) -> None:
        self.timer, self.plan = timer, plan
        self.losses: list[float] = []

    def on_log(self, entry: LogEntry) -> None:
        """Note a step."""
        self.losses.append(entry.loss)
        self.timer.step(*self.plan[entry.step - 1])


def _part(rows: TokenRows) -> EncodedPart:
    nothing = np.full(len(rows), -1, dtype=np.int32)
    numbers = np.arange(1, len(rows) + 1, dtype=np.int64)
    return EncodedPart(rows.tokens, rows.offsets, rows.prompt_lengths, numbers, nothing, nothing, nothing + 1)


def _prepared(rows: TokenRows) -> Prepared:
    none = _part(rows.take([]))
    parts: dict[Part, EncodedPart] = {**dict.fromkeys(PARTS, none), "train": _part(rows)}
    return Prepared(
        parts=parts,
        texts=dict.fromkeys(PARTS, ()),
        choice_sets=(),
        score_end_tokens=False,
        end_ids=(int(rows.tokens[-1]),),
        pad_id=0,
        max_new_tokens=8,
        metric="ExactMatch",
        template_digest="",
        tokenizer_digest="",
        summary=DatasetSummary(rows=len(rows), train=len(rows)),
    )


def main() -> None:
    """Train, score and report."""
    order = Order.from_arguments()
    threads = configure_threads()
    device = torch.device("cpu")
    precision = resolve_precision("Auto", device)
    loaded = load_model(Path(order.model), device=device, precision=precision)
    lora = LoRA() if order.method == "LoRA" else None
    if lora is not None:
        loaded = add_lora(loaded, lora, seed=SEED)
    rows = load_rows(Path(order.rows))
    parameters = Hyperparameters(
        method="Full" if lora is None else "LoRA",
        epochs=1,
        batch_size=order.batch,
        learning_rate=str(order.learning_rate),
        seed=SEED,
        lora=lora,
    )
    if not order.settings.get("shared", True):
        beginning.SHARED_SHARE = 2.0  # type: ignore[misc]  # never worth it
    limits = default_limits(loaded, parameters)
    if "tokens" in order.settings:
        limits = dataclasses.replace(limits, tokens=int(order.settings["tokens"]))
    lengths = np.diff(rows.offsets)
    # The plan that the loop follows.
    plan = [(int(lengths[step].sum()), len(step)) for step in steps(SEED, 0, len(rows), order.batch)]
    watch = _Watch(Timer(order.warm), plan)
    train(loaded, _prepared(rows), parameters, observer=watch, limits=limits)
    result = watch.timer.result()
    result |= quality(loaded.model, Path(order.held))
    print(json.dumps({**result, "losses": watch.losses, "precision": precision, "threads": threads}), flush=True)


if __name__ == "__main__":
    main()
