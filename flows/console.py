"""What `make run` shows of the log: all but the tracebacks, which go to .longhaul/logs/run.log and Prefect's UI."""

from __future__ import annotations

import logging
from pathlib import Path

from httpx import TransportError
from prefect.logging.handlers import PrefectConsoleHandler

from flows.settings import HOME, given, prefect_page
from tasks.cli import ending


def quieten() -> Path:
    """Keeps records with tracebacks off the console from here on; the file that gets all of them."""
    log = HOME / "logs" / "run.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    whole = logging.FileHandler(log, encoding="utf-8")
    for handler in logging.getLogger().handlers:
        if isinstance(handler, PrefectConsoleHandler):
            handler.addFilter(lambda record: not record.exc_info)
            whole.setFormatter(handler.formatter)
    logging.getLogger().addHandler(whole)
    return log


def last_words(error: Exception, log: Path) -> str:
    """Where the whole story is and, last, why the run failed. Nothing is logged after it."""
    logging.getLogger(__name__).error("The run failed.", exc_info=error)
    logging.disable()
    logging.raiseExceptions = False  # as Prefect asks when its last records cannot be sent
    return f"Everything that was logged is in {log}.\nThe run failed: {_reason(error)}"


def _reason(error: Exception) -> str:
    if isinstance(error, TransportError) or isinstance(error.__cause__, TransportError):
        log = "" if given("Prefect") else f"; its log is {HOME}/logs/prefect.log"
        return f"the Prefect server at {prefect_page()} no longer answers{log}."
    return ending(error, "run")[1]
