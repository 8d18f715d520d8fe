"""Settings, Kopf's settings and registry, logs, metrics and the two HTTP ports."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import kopf
import pytest

import finetune_operator
from finetune_operator.process.endpoints import serving
from finetune_operator.process.engine import Engine
from finetune_operator.process.handlers import build_registry
from finetune_operator.process.logs import JsonFormatter, configure_logging
from finetune_operator.process.metrics import Metrics
from finetune_operator.process.settings import Backoffs, Settings, SettingsError, configure_kopf
from tests.support.memory_gateway import MemoryCluster, MemoryGateway
from tests.support.operator_process import OPERATOR_RULES
from tests.support.virtual_time import EPOCH

# --- settings ---------------------------------------------------------------------------------------------------------


def test_settings_have_defaults_and_empty_variables_count_as_absent() -> None:
    assert Settings.from_environment({}) == Settings()
    assert Settings.from_environment({"FINETUNE_WORKERS": "", "FINETUNE_LOG_LEVEL": ""}) == Settings()
    assert (Settings().health_port, Settings().metrics_port) == (8080, 9090)


def test_settings_are_read_from_the_environment() -> None:
    environment = {
        "FINETUNE_HEALTH_PORT": "1",
        "FINETUNE_METRICS_PORT": "2",
        "FINETUNE_WORKERS": "3",
        "FINETUNE_RESYNC_SECONDS": "4",
        "FINETUNE_LOG_LEVEL": "debug",
        "FINETUNE_RUNTIME_FILE": "/etc/finetune/runtime.json",
    }
    expected = Settings(
        health_port=1,
        metrics_port=2,
        workers=3,
        resync_seconds=4,
        log_level="DEBUG",
        runtime_file="/etc/finetune/runtime.json",
    )
    assert Settings.from_environment(environment) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FINETUNE_HEALTH_PORT", "0"),
        ("FINETUNE_METRICS_PORT", "65536"),
        ("FINETUNE_WORKERS", "many"),
        ("FINETUNE_WORKERS", "-1"),
        ("FINETUNE_RESYNC_SECONDS", "1.5"),
        ("FINETUNE_LOG_LEVEL", "loud"),
    ],
)
def test_a_setting_that_can_not_be_used_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        Settings.from_environment({name: value})


def test_kopf_is_set_up_with_settings_that_it_has() -> None:
    settings = kopf.OperatorSettings()
    known = {
        group: set(vars(value)) for group, value in vars(settings).items() if not group.startswith("_") and vars(value)
    }
    configure_kopf(settings)
    for group, names in known.items():
        assert set(vars(getattr(settings, group))) == names, f"settings.{group} has no such setting"
    assert not settings.posting.enabled
    assert settings.scanning.disabled
    assert settings.peering.standalone


class Untouchable(dict[str, Any]):
    """An object of the cluster that must not be looked at."""

    def __deepcopy__(self, _: Any) -> Any:
        raise AssertionError("copied")

    def __iter__(self) -> Any:
        raise AssertionError("read")


def test_kopf_neither_copies_objects_nor_writes_to_them() -> None:
    settings, body, patch = kopf.OperatorSettings(), kopf.Body(Untouchable()), kopf.Patch()
    configure_kopf(settings)
    differences, progress = settings.persistence.diffbase_storage, settings.persistence.progress_storage
    essence = differences.build(body=body, extra_fields=[])
    assert progress.clear(essence=essence) == differences.build(body=body) == {}
    assert differences.fetch(body=body) is None
    assert progress.fetch(key=kopf.HandlerId("x"), body=body) is None
    differences.store(body=body, patch=patch, essence=essence)
    progress.store(key=kopf.HandlerId("x"), record={}, body=body, patch=patch)
    progress.purge(key=kopf.HandlerId("x"), body=body, patch=patch)
    progress.touch(body=body, patch=patch, value="now")
    assert not patch


def test_kopf_lists_and_watches_only_jobs_and_pods_of_ours() -> None:
    settings = kopf.OperatorSettings()
    configure_kopf(settings)
    selectors = {(s.group, s.version, s.any_name): value for s, value in settings.watching.label_selectors.items()}
    assert selectors == {
        ("batch", "v1", "jobs"): "finetune.dev/job-uid",
        ("", "v1", "pods"): "finetune.dev/job-uid",
    }


def test_backoffs_are_long_finite_and_never_the_same() -> None:
    first, second = list(Backoffs()), list(Backoffs())
    assert 400 < sum(first) < 900
    assert max(first) <= 37.5
    assert first[0] < 2
    assert first != second


def test_kopf_gets_stateless_handlers_only() -> None:
    class Ears:
        def event(self, *_: Any) -> None: ...

    registry = build_registry(Ears())  # type: ignore[arg-type]  # nothing of an engine is needed to register
    assert len(registry._watching.get_all_handlers()) == 4
    for stateful in (registry._changing, registry._spawning, registry._indexing, registry._webhooks):
        assert not list(stateful.get_all_handlers())


def test_the_operator_has_no_right_to_read_secrets_or_to_write_pods() -> None:
    rights = {(resource, verb) for rule in OPERATOR_RULES for resource in rule["resources"] for verb in rule["verbs"]}
    assert not [resource for resource, _ in rights if resource in ("secrets", "configmaps", "pods/exec", "pods/log")]
    assert {verb for resource, verb in rights if resource == "pods"} == {"get", "list", "watch"}
    assert {verb for resource, verb in rights if resource == "finetunejobs"} == {"get", "list", "watch"}


@pytest.mark.parametrize(
    ("library", "modules"),
    [("kubernetes", {"gateway"}), ("kopf", {"__main__", "handlers", "settings", "stateless"})],
)
def test_each_library_is_imported_only_where_it_belongs(library: str, modules: set[str]) -> None:
    importing = re.compile(rf"^\s*(import|from) {library}\b", re.MULTILINE)
    package = Path(finetune_operator.__file__).parent
    assert {path.stem for path in package.rglob("*.py") if importing.search(path.read_text())} == modules


# --- logs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    root, kopf_objects = logging.getLogger(), logging.getLogger("kopf.objects")
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging("INFO", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    kopf_objects.setLevel(logging.NOTSET)
    logging.captureWarnings(False)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_is_one_line_of_ascii_whatever_a_tenant_wrote(logged: io.StringIO) -> None:
    evil = 'x\n{"level": "CRITICAL"}\r\u2028\u202e\x1b[31m'
    logging.getLogger("finetune_operator.x").warning("said: %s", evil, extra={"event": "E", "job": f"ns/{evil}"})
    text = logged.getvalue()
    assert text.isascii()
    assert text.count("\n") == 1
    assert "\r" not in text
    assert "\x1b" not in text
    record = lines(logged)[0]
    assert record["message"] == f"said: {evil}"
    assert record["job"] == f"ns/{evil}"
    assert (record["level"], record["logger"], record["event"]) == ("WARNING", "finetune_operator.x", "E")
    assert record["ts"].endswith("Z")


def test_fields_and_tracebacks_are_kept(logged: io.StringIO) -> None:
    try:
        int("boom")
    except ValueError:
        logging.getLogger("x").exception("failed", extra={"fields": {"code": 7, "when": EPOCH}})
    record = lines(logged)[0]
    assert record["fields"] == {"code": 7, "when": str(EPOCH)}
    assert "ValueError: invalid literal" in record["error"]


def test_a_long_message_is_cut(logged: io.StringIO) -> None:
    logging.getLogger("x").error("y" * 100_000)
    assert len(logged.getvalue()) < 5000


def test_kopfs_chatter_about_objects_is_silent_and_its_references_are_kept(logged: io.StringIO) -> None:
    reference = {"kind": "Pod", "namespace": "ns", "name": "p", "uid": "u"}
    logging.getLogger("kopf.objects").info("Handler 'watch' succeeded.", extra={"k8s_ref": reference})
    logging.getLogger("kopf.objects").error("Handler 'watch' failed.", extra={"k8s_ref": reference})
    assert [(line["level"], line["object"]) for line in lines(logged)] == [("ERROR", "Pod/ns/p")]


@pytest.mark.parametrize(
    ("message", "level", "event"),
    [
        ("Request attempt #1 failed; will retry: GET /api -> x", "WARNING", "ApiUnavailable"),
        ("Request attempt #9 failed; escalating: GET /api -> x", "ERROR", None),
    ],
)
def test_what_kopf_is_about_to_retry_is_no_error(
    logged: io.StringIO, message: str, level: str, event: str | None
) -> None:
    logging.getLogger("kopf._cogs.clients.api").error(message)
    assert [(line["level"], line.get("event")) for line in lines(logged)] == [(level, event)]


def test_the_level_is_obeyed(logged: io.StringIO) -> None:
    logging.getLogger("finetune_operator.x").debug("quiet")
    assert lines(logged) == []


def test_a_record_without_extras_has_no_empty_fields() -> None:
    record = logging.LogRecord("n", logging.INFO, "p", 1, "m", None, None)
    assert set(json.loads(JsonFormatter().format(record))) == {"ts", "level", "logger", "message"}


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_jobs_are_counted_by_namespace_and_phase_when_somebody_asks() -> None:
    metrics = Metrics()
    jobs: list[Any] = []
    metrics.look_at(jobs=lambda: jobs, queue_depth=lambda: 3)
    for namespace, status in [("a", {"phase": "Training"}), ("a", {"phase": "Training"}), ("b", None), ("b", {})]:
        jobs.append({"metadata": {"namespace": namespace}, "status": status})
    text = metrics.render().decode()
    assert 'finetune_jobs{namespace="a",phase="Training"} 2.0' in text
    assert 'finetune_jobs{namespace="b",phase="Pending"} 2.0' in text
    assert "finetune_workqueue_depth 3.0" in text
    assert "finetune_build_info{version=" in text


def test_what_happens_is_counted() -> None:
    metrics = Metrics()
    metrics.reconciled("ok", seconds=0.02)
    metrics.job_ended(namespace="a", result="Failed", reason="OutOfMemory", seconds=100)
    metrics.job_ended(namespace="a", result="Failed", reason="OutOfMemory", seconds=None)
    metrics.requested("get", "jobs", 404)
    text = metrics.render().decode()
    assert 'finetune_reconcile_total{result="ok"} 1.0' in text
    assert 'finetune_reconcile_duration_seconds_bucket{le="0.05"} 1.0' in text
    assert 'finetune_job_duration_seconds_count{result="Failed"} 1.0' in text
    assert 'finetune_job_duration_seconds_sum{result="Failed"} 100.0' in text
    assert 'finetune_jobs_ended_total{namespace="a",reason="OutOfMemory"} 2.0' in text
    assert 'finetune_api_requests_total{code="404",resource="jobs",verb="get"} 1.0' in text


# --- ports ------------------------------------------------------------------------------------------------------------


async def fetch(port: int, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as response:
        return response.status, await response.text()


async def test_the_ports_tell_health_readiness_and_metrics(
    unused_tcp_port_factory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = MemoryCluster(now=lambda: EPOCH)
    engine = Engine(gateway=MemoryGateway(cluster), reconcile=_never, settings=Settings(workers=1), metrics=Metrics())
    health, metrics = unused_tcp_port_factory(), unused_tcp_port_factory()
    async with serving(engine, health_port=health, metrics_port=metrics, host="127.0.0.1"):
        assert await fetch(health, "/healthz") == (200, '{"ok": true, "reason": null}')
        assert (await fetch(health, "/readyz"))[0] == 503
        async with engine.running():
            assert (await fetch(health, "/readyz"))[0] == 200
        monkeypatch.setattr(Engine, "trouble", lambda _: "it hangs")
        assert await fetch(health, "/healthz") == (500, '{"ok": false, "reason": "it hangs"}')
        status, text = await fetch(metrics, "/metrics")
        assert (status, "finetune_workqueue_depth" in text) == (200, True)
        assert (await fetch(metrics, "/healthz"))[0] == 404


def _never(_: Any) -> Any:
    raise AssertionError("there is no job")
