"""Logs as one JSON object a line, for the operator's own loggers and for Kopf's.

Set up once by ``__main__``. A record may carry ``extra={"event": ..., "job": ..., "fields": {...}}``: a stable name to
search and alert on, the key of the job, and further values. Text from tenants ends up in messages, so everything
outside printable ASCII is escaped and no message can begin a line of its own.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final, TextIO

__all__ = ["JsonFormatter", "configure_logging"]

MAX_TEXT: Final = 4096
"""Characters of a message; a traceback may have four times as many."""


class JsonFormatter(logging.Formatter):
    """One JSON object a record: ts, level, logger, event, job, message, fields, error."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of ASCII."""
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
        }
        event, job = getattr(record, "event", None), getattr(record, "job", None)
        if event is not None:
            line["event"] = str(event)
        if job is not None:
            line["job"] = str(job)
        elif isinstance(reference := getattr(record, "k8s_ref", None), dict):  # Kopf's reference to an object
            line["object"] = "/".join(str(reference[k]) for k in ("kind", "namespace", "name") if reference.get(k))
        line["message"] = record.getMessage()[:MAX_TEXT]
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            line["fields"] = fields
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)[-4 * MAX_TEXT :]
        return json.dumps(line, default=str)


def expected_in_kopf(record: logging.LogRecord) -> bool:
    """Lower what Kopf calls an error although it is about to try again; a filter that lets every record pass."""
    if record.name.startswith("kopf.") and record.levelno == logging.ERROR and "will retry" in str(record.msg):
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.event = "ApiUnavailable"
    return True


def configure_logging(level: str, stream: TextIO | None = None) -> None:
    """Send all logging to one JSON handler (on stderr) and quieten what repeats itself."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(expected_in_kopf)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Kopf tells of each call of a handler at INFO, which is one line for each event of each pod.
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    logging.captureWarnings(True)
