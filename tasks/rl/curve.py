"""The learner's metrics in the tracking run, step by step while it works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tasks.rl.spec import store_path
from tasks.rl.store import TrajectoryStore
from tasks.rl.supervisor import OnLine, print_line
from tasks.tracking import Tracker

EVERY = 4  # learner steps a request
STEP = re.compile(r"\[reinforce\] step (\d+)/\d+ reward")  # as tasks.rl.learner says it


def read_history(run_dir: Path) -> list[dict[str, Any]]:
    """The metrics of every trained step."""
    store = TrajectoryStore(store_path(run_dir))
    history = store.history()
    store.close()
    return history


def send_history(tracker: Tracker, run_dir: Path) -> None:
    """Logs the trained steps that the tracking run does not hold yet; safe to repeat, and after an interruption."""
    last = tracker.last_step("reward")
    for row in read_history(run_dir):
        if row["step"] > last:
            tracker.log({key: value for key, value in row.items() if isinstance(value, int | float)}, row["step"])
    tracker.flush()


def is_due(line: str) -> bool:
    """Whether this line of the learner says that another EVERY steps are trained."""
    match = STEP.match(line)
    return match is not None and int(match[1]) % EVERY == 0


def sending(tracker: Tracker, run_dir: Path, on_line: OnLine = print_line) -> OnLine:
    """A handler of the workers' lines that also sends the curve when it is due."""

    def handle(line: str) -> None:
        on_line(line)
        if is_due(line):
            send_history(tracker, run_dir)

    return handle
