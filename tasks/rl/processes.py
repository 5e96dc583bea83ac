"""The worker programs as processes: started, read line by line, ended, and started again with patience."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tasks.rl.spec import read_spec
from tasks.rl.worker import PARENT

PROGRAMS = {
    "rollout": "tasks.rl.rollout", "judge": "tasks.rl.judging", "learner": "tasks.rl.learner",
    "measure": "tasks.benchmarks.measure",  # a program only: this package imports nothing of the benchmarks
}  # fmt: skip
GRACE_SECONDS = 20.0  # between SIGTERM and SIGKILL
MAX_RESTARTS = 10  # without a trained step in between: about three minutes
RESTART_SECONDS = 0.5  # before the first; each further one waits twice as long
LONGEST_WAIT = 30.0

OnLine = Callable[[str], None]


def print_line(line: str) -> None:
    """The default destination of the workers' lines."""
    print(line, flush=True)


def log_path(run_dir: Path, kind: str) -> Path:
    """Every line that the programs of one kind printed in this run."""
    return run_dir / f"{kind}.log"


class Patience:
    """When a worker that ended too early is started again: later each time, until the run moves on or all is spent."""

    def __init__(self) -> None:
        self.deaths = 0
        self._progress: int | None = None

    def next_wait(self, progress: int | None) -> float | None:
        """Seconds until the next start; None if there were too many. `progress`: steps trained, None if unknown."""
        if progress is not None and progress != self._progress:
            self._progress, self.deaths = progress, 0
        self.deaths += 1
        return None if self.deaths > MAX_RESTARTS else min(LONGEST_WAIT, RESTART_SECONDS * 2 ** (self.deaths - 1))


def run_program(
    kind: str, arguments: Sequence[str], run_dir: Path, on_line: OnLine, stop: threading.Event, last: deque[str]
) -> int:
    """One life of a worker program: its exit code. Its lines go to `on_line`, its log and `last`; `stop` ends it."""
    if stop.is_set():
        return -signal.SIGTERM
    command = [sys.executable, "-m", PROGRAMS[kind], *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        env=_environment(run_dir),
    )  # fmt: skip
    threading.Thread(target=_end_on, args=(stop, process), daemon=True).start()
    try:
        _write(run_dir / f"{kind}.pid", str(process.pid), "w")
        for line in process.stdout or ():
            last.append(line.rstrip("\n"))
            _write(log_path(run_dir, kind), line, "a")
            on_line(last[-1])
        return process.wait()
    finally:
        end_process(process)
        if process.stdout is not None:
            process.stdout.close()


def end_process(process: subprocess.Popen[str]) -> None:
    """SIGTERM, and SIGKILL to one that does not end within GRACE_SECONDS."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that whoever started processes ends them; main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _environment(run_dir: Path) -> dict[str, str]:
    threads = str(read_spec(run_dir).reinforce.threads)
    own = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1", PARENT: str(os.getpid())}
    return {**os.environ, **own}


def _end_on(stop: threading.Event, process: subprocess.Popen[str]) -> None:
    while process.poll() is None:
        if stop.wait(0.2):
            end_process(process)
            return


def _write(path: Path, text: str, mode: str) -> None:
    # A full disk must not end the one who reports it.
    with suppress(OSError), path.open(mode, encoding="utf-8") as stream:
        stream.write(text)
