"""The untouched model of a job: brought here beside its rows, and loaded on the device that is there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from finetune_trainer.checkpoint.checkpoints import Settled
from finetune_trainer.counted import counted, size_of
from finetune_trainer.evaluation.abilities import try_out
from finetune_trainer.job.context import Work
from finetune_trainer.job.dataset import bring_adapter
from finetune_trainer.job.handover import StoredPrepared, prepare_once, receive_prepared
from finetune_trainer.model.device import Precision, configure_threads, pick_device, resolve_precision
from finetune_trainer.model.limits import read_config
from finetune_trainer.model.load import Abilities, LoadedModel, load_model
from finetune_trainer.prepare.prepared import Prepared
from finetune_trainer.process.console import Console
from finetune_trainer.storage.adapterfiles import FetchedAdapter
from finetune_trainer.storage.fetch import fetch_model
from finetune_trainer.storage.modelcache import ModelCache

__all__ = ["Host", "Inputs", "bring_inputs", "host_of", "load"]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The rows, the model that they are for, and the adapter that is on it from the start."""

    prepared: Prepared
    stored: StoredPrepared
    model_folder: Path
    model_revision: str
    adapter: FetchedAdapter | None = None


@dataclass(frozen=True, kw_only=True)
class Host:
    """What computes here."""

    device: torch.device
    threads: int


def bring_inputs(work: Work) -> Inputs:
    """Bring rows and model here; a job with a single stage prepares the rows itself, before it fetches weights."""
    rows = prepare_once(work) if work.stage_input.includes_prepare else receive_prepared(work)
    with work.console.step("fetch_model", "fetch the model") as progress:
        model = fetch_model(
            work.spec.model,
            access=work.access,
            folder=work.folder / "model",
            progress=progress,
            pinned_revision=rows.model_revision,
            cache=_cache(work),
        )
    adapter = bring_adapter(work, pinned_revision=rows.adapter_revision)
    return Inputs(
        prepared=rows.prepared,
        stored=rows.stored,
        model_folder=model.folder,
        model_revision=model.revision,
        adapter=adapter,
    )


def _cache(work: Work) -> ModelCache | None:
    """The runtime's cache, where the operator has mounted one."""
    settings = work.stage_input.model_cache
    if settings is None:
        return None
    return ModelCache(work.environment.model_cache_dir, max_bytes=settings.max_bytes, console=work.console)


def host_of(*, gpus: int, simulated: bool, console: Console) -> Host:
    """Find what computes.

    Parameters
    ----------
    gpus
        How many the job asked for.
    simulated
        Whether the CPU may stand in for one that isn't there.
    """
    threads = configure_threads()
    if gpus and simulated and not torch.cuda.is_available():
        console.event("simulated_gpu", "no GPU here; the CPU computes in its place", level="warning")
        gpus = 0
    return Host(device=pick_device(gpus), threads=threads)


def load(
    folder: Path, host: Host, *, wish: Literal["Auto", "BFloat16", "Float32"], settled: Settled | None, console: Console
) -> LoadedModel:
    """Load the model and try out what it can do; what an earlier attempt settled stays, however fast it is here."""
    with console.step("load_model", "load the model"):
        precision = settled.precision if settled else _precision(folder, host, wish)
        loaded = load_model(folder, device=host.device, precision=precision)
    console.event(
        "model",
        f"{size_of(loaded.parameters)}, {precision}, {host.device}, {counted(host.threads, 'thread')}"
        if console.interactive
        else None,
        parameters=loaded.parameters,
        precision=precision,
        device=str(host.device),
        threads=host.threads,
    )
    if settled and settled.branching is not None:
        loaded = replace(loaded, abilities=Abilities(branching=settled.branching))
    return try_out(loaded)


def _precision(folder: Path, host: Host, wish: Literal["Auto", "BFloat16", "Float32"]) -> Precision:
    """Choose; on a CPU encoder-decoder models are computed in 32 bits unless asked otherwise.

    T5 is known to lose answers in 16 bits, and what makes bfloat16 fast on a CPU isn't there for such models.
    """
    if wish == "Auto" and host.device.type == "cpu" and read_config(folder).is_encoder_decoder:
        return "Float32"
    return resolve_precision(wish, host.device)
