"""What the worker programs share: their command line, their leases' name, and when to stop.

A worker stops cleanly on SIGTERM, when the run's last step is trained, and when its supervisor is gone (a killed
supervisor cannot say goodbye, and its workers must not outlive it).
"""

from __future__ import annotations

import argparse
import os
import signal
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from tasks.rl.errors import RunStopped, exit_status
from tasks.rl.health import outage_after, outage_sentence
from tasks.rl.spec import RunSpec, read_spec, store_path
from tasks.rl.store import TrajectoryStore
from tasks.sandbox import Limits, SandboxUnavailable, open_sandbox

CHECK_SECONDS = 0.2
NOTE_SECONDS = 1.0  # a worker notes at most one failed episode in this time: thousands may fail alike
PARENT = "LONGHAUL_SUPERVISOR"  # its process id: it may be gone before its worker has started up


class Worker:
    """One worker process: its run, its store connection and its name in leases."""

    def __init__(self, kind: str, run_dir: Path) -> None:
        self.kind = kind
        self.run_dir = run_dir
        self.spec: RunSpec = read_spec(run_dir)
        self.store = TrajectoryStore(store_path(run_dir))
        self.name = f"{kind}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._parent = int(os.environ.get(PARENT, os.getppid()))
        self._terminated = False
        self._stopped = False
        self._next_check = 0.0
        self._noting = Every(NOTE_SECONDS)
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._terminated = True

    def should_stop(self) -> bool:
        """Whether to leave the loop; looks at the store every CHECK_SECONDS.

        Raises RunStopped if the run cannot go on, whoever found that out.
        """
        if self._terminated or self._stopped:
            return True
        if time.monotonic() >= self._next_check:
            self._next_check = time.monotonic() + CHECK_SECONDS
            self._raise_if_stopped()
            orphaned = os.getppid() != self._parent
            self._stopped = orphaned or self.store.finished(self.spec.reinforce.updates)
        return self._stopped

    def _raise_if_stopped(self) -> None:
        ending, failures = self.store.ending(), self.store.failures()
        if ending is not None and ending.failed:
            raise RunStopped(ending.sentence)
        if failures.in_a_row >= outage_after(self.spec.reinforce):
            raise RunStopped(outage_sentence(failures, self.run_dir))

    def note(self, what: str) -> None:
        """A line for the log about a failed episode; others that fail within NOTE_SECONDS go without."""
        if self._noting.due():
            print(f"[{self.kind}] {what}", flush=True)

    def live(self, body: Callable[[Worker], None]) -> None:
        """Does the body, gives the leases back however it ends, and tells all workers if the run cannot go on."""
        try:
            body(self)
        except RunStopped as stopped:
            with suppress(sqlite3.Error):  # the store itself may be what stopped it
                self.store.end(str(stopped), failed=True)
            raise
        finally:
            with suppress(sqlite3.Error):
                self.store.release(self.name)


class Every:
    """True at most once in `seconds`: `if renewal.due(): ...`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._next = 0.0

    def due(self) -> bool:
        """Whether the time has come; starts the next wait if so."""
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + self.seconds
        return True


@contextmanager
def boxes() -> Iterator[Any]:
    """The sandbox of a worker. Raises RunStopped where this machine has none: it will have none a moment later."""
    try:
        factory = open_sandbox("bubblewrap", Limits())
    except SandboxUnavailable as error:
        raise RunStopped(str(error)) from error
    with factory:
        yield factory


def end_with_the_supervisor() -> None:
    """For a program without a `Worker`'s loop: it gets SIGTERM once its supervisor is gone."""
    parent = int(os.environ.get(PARENT, os.getppid()))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(CHECK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def worker_main(kind: str, body: Callable[[Worker], None], argv: Sequence[str] | None = None) -> int:
    """Runs a worker program; its exit status, with one sentence on stderr if it went wrong (see tasks.cli).

    2 says that its input is unusable, and 1 that another start may succeed, unless the store says how the run ended.
    """
    parser = argparse.ArgumentParser(prog=f"python -m tasks.rl.{kind}")
    parser.add_argument("--run-dir", type=Path, required=True)
    run_dir = parser.parse_args(argv).run_dir
    return exit_status(lambda: Worker(kind, run_dir).live(body), f"reinforce ({kind})")
