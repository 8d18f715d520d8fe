"""Posts live reports to the operator while a stage runs, from a thread of its own.

It must never fail or slow a training: timeouts are short, whatever goes wrong is logged once and tried again later, and
the end of the stage waits for the last report for a few seconds only. The operator says how often it wants to hear. The
token is read anew each time, because kubelet renews it; the only authority that is trusted is the operator's own.
"""

from __future__ import annotations

import http.client
import json
import random
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from pydantic import ValidationError

from finetune_api.live import LiveReply, LiveReport
from finetune_api.names import PROGRESS_CA_FILE, PROGRESS_TOKEN_FILE
from finetune_trainer.process.console import Console

__all__ = ["Pace", "Reporter"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How often is reported, in seconds.

    Attributes
    ----------
    least
        Between two reports, whatever happens.
    usual
        Between two reports of what changes, until the operator says otherwise.
    silence
        Between two reports of the same.
    after_failure
        Before the next report, once one was not taken; see :meth:`until_next_try`.
    at_once, tries
        Where nobody took it, the same report is sent again so soon, in all so often: of two operators one takes
        reports, and which of them a connection reaches is chance.
    timeout
        For one report to be sent and answered.
    last
        How long the end of the stage waits for the last report.
    """

    least: float = 1.0
    usual: float = 10.0
    silence: float = 60.0
    after_failure: float = 30.0
    at_once: float = 0.1
    tries: int = 6
    timeout: float = 10.0
    last: float = 3.0

    def until_next_try(self) -> float:
        """Seconds from a failure to the next try, spread so that pods that failed together don't return together."""
        return self.after_failure * random.uniform(0.5, 1.5)  # noqa: S311 - no secret


class _Over(Exception):  # noqa: N818 - no error: the operator wants no more reports
    """The operator says that the job or the pod has ended."""


class Reporter:
    """Reports while its block runs.

    Parameters
    ----------
    url
        Where to post; None: nobody takes reports.
    folder
        Holds the token and the authority's certificate.
    """

    def __init__(self, url: str | None, folder: Path, console: Console, *, pace: Pace = Pace()) -> None:
        self._url, self._folder, self._console, self._pace = url, folder, console, pace
        self._live = console.live
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._sequence = 0
        self._sent: LiveReport | None = None
        self._next = pace.usual
        self._told = False

    def __enter__(self) -> Self:
        if self._url is not None:
            self._thread = threading.Thread(target=self._run, name="live reports", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._live.news.set()
        if self._thread is not None:
            self._thread.join(self._pace.last)

    def _run(self) -> None:
        sent_at = -self._pace.silence
        try:
            while True:
                self._live.news.wait(self._next)
                self._live.news.clear()
                ending = self._ending.is_set()  # after the clear, which could swallow the last wake
                report = self._live.document(self._sequence + 1)
                due = time.monotonic() - sent_at >= self._pace.silence
                if report is not None and (due or self._differs(report)):
                    self._report(report)
                    sent_at = time.monotonic()
                if ending:
                    return
                self._ending.wait(self._pace.least)
        except _Over:
            return
        except Exception as error:  # whatever it is, the training goes on without reports
            self._tell(f"{type(error).__name__}: {error}")

    def _differs(self, report: LiveReport) -> bool:
        sent = self._sent
        return sent is None or sent.model_copy(update={"sequence": report.sequence}) != report

    def _report(self, report: LiveReport) -> None:
        self._sequence = report.sequence
        try:
            self._next = self._taken(report)
            self._sent = report
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._next = self._pace.until_next_try()
            self._tell(str(error) or type(error).__name__)

    def _taken(self, report: LiveReport) -> float:
        """Send one report until an operator takes it; return in how many seconds the next one is wanted.

        Raises
        ------
        OSError, HTTPException, ValueError
            It was not taken.
        """
        for _ in range(self._pace.tries - 1):
            try:
                return self._post(report)
            except ConnectionRefusedError:
                time.sleep(self._pace.at_once)
        return self._post(report)

    def _post(self, report: LiveReport) -> float:
        """Send one report; return in how many seconds the next one is wanted.

        Raises
        ------
        OSError, HTTPException, ValueError
            It was not taken.
        """
        url = urlsplit(self._url or "")
        context = ssl.create_default_context(cafile=str(self._folder / PROGRESS_CA_FILE))
        token = (self._folder / PROGRESS_TOKEN_FILE).read_text(encoding="ascii").strip()
        body = json.dumps(report.to_wire(), ensure_ascii=False, separators=(",", ":")).encode()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Connection": "close"}
        connection = http.client.HTTPSConnection(
            url.hostname or "", url.port or 443, timeout=self._pace.timeout, context=context
        )
        try:
            connection.request("POST", url.path or "/", body, headers)
            answer = connection.getresponse()
            text = answer.read(4096)
        finally:
            connection.close()
        if answer.status == http.HTTPStatus.GONE:
            raise _Over
        if answer.status != http.HTTPStatus.OK:
            raise ValueError(f"the operator answers {answer.status}")
        try:
            return max(self._pace.least, float(LiveReply.model_validate_json(text).next_seconds))
        except ValidationError:
            return self._pace.usual

    def _tell(self, message: str) -> None:
        """Log the first failure; the training's log is not the place for the others."""
        if self._told:
            return
        self._told = True
        text = f"no live report could be sent; the training goes on, and so do the tries: {message}"
        self._console.event("live_report_failed", text, level="warning")
