"""What the worker programs share: their command line, their leases' name, and when to stop.

A worker stops cleanly on SIGTERM, when the run's last step is trained, and when its supervisor is gone (a killed
supervisor cannot say goodbye, and its workers must not outlive it).
"""

from __future__ import annotations

import argparse
import os
import signal
import sqlite3
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from tasks.rl.spec import RunSpec, read_spec, store_path
from tasks.rl.store import TrajectoryStore

CHECK_SECONDS = 0.2
PARENT = "LONGHAUL_SUPERVISOR"  # its process id: it may be gone before its worker has started up


class Worker:
    """One worker process: its run, its store connection and its name in leases."""

    def __init__(self, kind: str, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.spec: RunSpec = read_spec(run_dir)
        self.store = TrajectoryStore(store_path(run_dir))
        self.name = f"{kind}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._parent = int(os.environ.get(PARENT, os.getppid()))
        self._terminated = False
        self._stopped = False
        self._next_check = 0.0
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._terminated = True

    def should_stop(self) -> bool:
        """Whether to leave the loop; looks at the store every CHECK_SECONDS."""
        if self._terminated or self._stopped:
            return True
        if time.monotonic() >= self._next_check:
            self._next_check = time.monotonic() + CHECK_SECONDS
            orphaned = os.getppid() != self._parent
            self._stopped = orphaned or self.store.version() >= self.spec.reinforce.updates
        return self._stopped


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


def worker_main(kind: str, body: Callable[[Worker], None], argv: Sequence[str] | None = None) -> int:
    """Runs a worker program; 2 and one sentence on stderr if its input is unusable."""
    parser = argparse.ArgumentParser(prog=f"python -m tasks.rl.{kind}")
    parser.add_argument("--run-dir", type=Path, required=True)
    run_dir = parser.parse_args(argv).run_dir
    try:
        worker = Worker(kind, run_dir)
        body(worker)
        worker.store.release(worker.name)
    except (ValueError, RuntimeError, OSError, sqlite3.Error) as error:
        print(f"The {kind} worker of {run_dir} stopped: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return 2
    return 0
