"""Sends the libraries' log records and warnings through the console, and keeps their own bars off the terminal.

Without this, transformers and others write plain lines between the JSON ones.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from typing_extensions import override

from finetune_trainer.process.console import Console, Level

__all__ = ["logging_to"]

_OF_PEFT: Final = "`is_gradient_checkpointing` is deprecated"
"""peft 0.21 asks transformers by the old name whenever it takes a model; nobody here can ask otherwise."""


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    @override
    def emit(self, record: logging.LogRecord) -> None:
        level: Level = "error" if record.levelno >= logging.ERROR else "info"
        if record.levelno == logging.WARNING:
            level = "warning"
        self._console.event("log", " ".join(record.getMessage().split()), level=level, logger=record.name)


@contextmanager
def logging_to(console: Console) -> Iterator[None]:
    """Write records to ``console`` until the block ends: ours from INFO, the libraries' from WARNING."""
    from transformers.utils import logging as transformers_logging  # noqa: PLC0415 - heavy, and not needed to render

    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()
    transformers_logging.disable_progress_bar()
    root, own, handler = logging.getLogger(), logging.getLogger("finetune_trainer"), _ConsoleHandler(console)
    before = root.handlers[:], own.level, warnings.showwarning
    root.handlers = [handler]
    own.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", _OF_PEFT, FutureWarning)
            logging.captureWarnings(True)
            yield
    finally:
        logging.captureWarnings(False)
        root.handlers, own.level, warnings.showwarning = before
        transformers_logging.enable_default_handler()
        transformers_logging.disable_propagation()
