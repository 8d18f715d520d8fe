"""Kopf glue: every watch event goes to the engine, which puts it into the cache and the queue. Nothing else.

Only stateless handlers: they leave no annotation and no finalizer on any object, so neither GitOps tools nor restored
backups can disturb them. Handlers return None, because Kopf would write any other value to the object's status.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import kopf

from finetune_api import GROUP, JOB_PLURAL, RUNTIME_PLURAL, VERSION
from finetune_operator.cluster.protocol import Kind
from finetune_operator.process.engine import Engine
from finetune_operator.process.settings import configure_kopf

__all__ = ["build_registry"]

WATCHED: Final[tuple[tuple[Kind, str, str, str], ...]] = (
    ("jobs", GROUP, VERSION, JOB_PLURAL),
    ("runtimes", GROUP, VERSION, RUNTIME_PLURAL),
    ("children", "batch", "v1", "jobs"),
    ("pods", "", "v1", "pods"),
)


def build_registry(engine: Engine, *, started: Callable[[], object] = lambda: None) -> kopf.OperatorRegistry:
    """Return Kopf's handlers for one engine; ``started`` is called once Kopf has set itself up."""
    registry = kopf.OperatorRegistry()
    kopf.on.login(id="login", registry=registry)(kopf.login_via_client)

    @kopf.on.startup(id="configure", registry=registry)
    async def startup(settings: kopf.OperatorSettings, **_: Any) -> None:
        configure_kopf(settings)
        started()

    for kind, group, version, plural in WATCHED:

        @kopf.on.event(group, version, plural, id=f"watch-{kind}", param=kind, registry=registry)
        async def watch(event: kopf.RawEvent, param: Any = None, **_: Any) -> None:
            engine.event(param, event["type"], dict(event["object"]))

    return registry
