"""The stage's tracking run, on rank 0 only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.config import Config
from tasks.launcher import launched
from tasks.tracking import Tracker, run

Log = Callable[[int, Mapping[str, float]], None]


class Reporter:
    """Sends numbers to the tracker where there is one."""

    def __init__(self, tracker: Tracker | None) -> None:
        self.tracker = tracker

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics of one step."""
        if self.tracker is not None:
            self.tracker.log(metrics, step)

    def summary(self, metrics: Mapping[str, Any]) -> None:
        """The content of the metrics file."""
        if self.tracker is not None:
            self.tracker.summary(metrics)


@contextmanager
def reporting(stage: str, config: Config, inputs: Sequence[Path]) -> Iterator[Reporter]:
    """A reporter that writes to the stage's MLflow run on rank 0 and nowhere on the others."""
    launch = launched()
    if launch is not None and launch.rank != 0:
        yield Reporter(None)
        return
    with run(stage, config, list(inputs)) as tracker:
        yield Reporter(tracker)
