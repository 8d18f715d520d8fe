"""Starts the operator: ``python -m finetune_operator`` or ``finetune-operator``.

Crash-only: whatever can't go on (a dead watch, a dead worker, missing rights) ends the process with a code other than
0, and kubelet starts it anew. SIGTERM ends it with 0 at any time, also while it waits for its CRDs or for the Lease.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import kopf

from finetune_api import __version__
from finetune_operator.cluster.gateway import KubernetesGateway, load_configuration
from finetune_operator.decide.installation import InstalledRuntime, read_manifest
from finetune_operator.decide.reconcile import reconcile
from finetune_operator.process.endpoints import serving
from finetune_operator.process.engine import Engine
from finetune_operator.process.handlers import build_registry
from finetune_operator.process.logs import configure_logging
from finetune_operator.process.metrics import Metrics
from finetune_operator.process.role import elector_of, working
from finetune_operator.process.settings import Settings, SettingsError

__all__ = ["main", "operate"]

log = logging.getLogger("finetune_operator")


def installed_runtime(settings: Settings) -> InstalledRuntime | None:
    """Return the FineTuneRuntime that the installation brings, if it brings one.

    Raises
    ------
    SettingsError
        Its file can't be read or holds something else.
    """
    if not settings.runtime_file:
        return None
    try:
        return read_manifest(Path(settings.runtime_file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"FINETUNE_RUNTIME_FILE: {settings.runtime_file}: {error}") from error


def _nothing() -> object: ...


async def operate(
    settings: Settings, *, installed: InstalledRuntime | None = None, started: Callable[[], object] = _nothing
) -> None:
    """Run the operator until it is cancelled, or until something of it has ended by an error.

    Parameters
    ----------
    started
        Called once Kopf has set itself up, and with it its own handlers of signals.

    Raises
    ------
    Exception
        What has ended.
    """
    metrics = Metrics()
    gateway = KubernetesGateway(await load_configuration(), on_request=metrics.requested)
    engine = Engine(gateway=gateway, reconcile=reconcile, settings=settings, metrics=metrics, installed=installed)
    elector = elector_of(settings, gateway, engine)
    try:
        # Servers and workers are there before Kopf, which takes every task begun after it for its own and cancels it.
        async with (
            serving(engine, health_port=settings.health_port, metrics_port=settings.metrics_port),
            working(engine, gateway, settings, elector),
        ):
            log.info("Watching", extra={"event": "Started", "fields": {"version": __version__}})
            await _watch_until_stopped(engine, started)
    finally:
        await gateway.close()


async def _watch_until_stopped(engine: Engine, started: Callable[[], object] = _nothing) -> None:
    """Run Kopf until it is cancelled, a watch fails or something of the engine has ended."""
    # Kopf's own stop flag is not used: the task that waits for it delays every stop by five seconds.
    death = asyncio.create_task(engine.died.wait(), name="death watch")
    kopf_task = asyncio.create_task(
        kopf.operator(registry=build_registry(engine, started=started), clusterwide=True, standalone=True), name="kopf"
    )
    try:
        await asyncio.wait({death, kopf_task}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        death.cancel()
        if not kopf_task.done():
            kopf_task.cancel()
            await asyncio.wait({kopf_task})
    if not kopf_task.cancelled():
        await kopf_task  # raises what ended it


async def _until_told(settings: Settings, installed: InstalledRuntime | None) -> None:
    """Run the operator; SIGTERM and SIGINT cancel it.

    Kopf puts handlers of its own in place, by which it first waits five seconds for tasks that are not its own, while
    nobody else may lead yet. So ours are put back.
    """
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()

    def stop() -> None:
        if not stopping.is_set():  # a second signal must not cut the end short
            stopping.set()
            work.cancel()

    def take_signals() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)

    work = asyncio.create_task(
        operate(settings, installed=installed, started=lambda: loop.call_soon(take_signals)), name="operate"
    )
    take_signals()
    try:
        await work
    except asyncio.CancelledError:
        if not stopping.is_set():
            raise


def main() -> int:
    """Run the operator; returns the exit code of the process."""
    try:
        settings = Settings.from_environment(os.environ)
        installed = installed_runtime(settings)
    except SettingsError as error:
        configure_logging("INFO")
        log.error("%s", error, extra={"event": "SettingsInvalid"})  # noqa: TRY400 - the message says it all
        return 2
    configure_logging(settings.log_level)
    try:
        asyncio.run(_until_told(settings, installed))
    except Exception:
        log.critical("The operator has to end", exc_info=True, extra={"event": "OperatorFailed"})
        return 1
    log.info("Stopped", extra={"event": "Stopped"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
