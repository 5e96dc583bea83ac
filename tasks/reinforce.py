"""Stage `reinforce`: asynchronous reinforcement learning of checkpoints/midtrain against the judge.

Starts the rollout, judge and learner programs side by side and continues an interrupted run of the same parameters
and inputs. `make run` does the same with one Prefect subflow a kind of worker.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.cli import program
from tasks.config import Config, parse_arguments
from tasks.rl import curve, supervisor
from tasks.rl.processes import interrupted_by_sigterm
from tasks.rl.spec import SPEC, read_spec
from tasks.tracking import Tracker, provenance, run
from tasks.tracking.metrics import write_metrics

CHECKPOINT = Path("checkpoints/reinforce")
RESULTS = Path("results/reinforce")
METRICS = Path("metrics/reinforce.json")
INPUTS = (Path("checkpoints/midtrain"),)
FINISHED = Path(".longhaul/finished/reinforce")


def reinforce(config: Config) -> dict[str, Any]:
    """The whole stage; the metrics. Raises WorkerFailed if a worker ends for good, or nothing was trained."""
    run_dir = supervisor.prepare(config, INPUTS[0])
    with interrupted_by_sigterm(), run("reinforce", config, INPUTS) as tracker:
        if not supervisor.finished(run_dir):
            on_line = curve.sending(tracker, run_dir)
            supervisor.run_all(run_dir, on_line, [lambda stop: supervisor.measure(run_dir, "before", stop=stop)])
        for when in ("before", "after"):  # what is measured already is skipped
            supervisor.measure(run_dir, when)
        return finish(config, run_dir, tracker)


def finish(config: Config, run_dir: Path, tracker: Tracker) -> dict[str, Any]:
    """Writes the stage's outs and tracking run from a run whose steps are trained and whose families are measured.

    The run folder moves to .longhaul/finished/reinforce, so that the same command later starts afresh.
    """
    from tasks.rl import results  # imports torch, which the supervisor does not need

    spec = read_spec(run_dir)
    lineage = provenance("reinforce", config, INPUTS)
    metrics = results.run_metrics(run_dir, spec)
    families = {key: value for key, value in metrics.items() if key in spec.reinforce.evaluation}
    history = curve.read_history(run_dir)
    results.write_results(RESULTS, history, families)
    results.write_checkpoint(run_dir, spec, CHECKPOINT, {"longhaul.json": json.dumps(lineage, indent=1).encode()})
    metrics["seconds"] = round(time.time() - (run_dir / SPEC).stat().st_mtime, 2)  # pauses of a resumed run included
    write_metrics(METRICS, metrics)
    curve.send_history(tracker, run_dir)
    tracker.summary(metrics)
    tracker.artifact(RESULTS / "curve.png")
    _retire(run_dir)
    return metrics


def _retire(run_dir: Path) -> None:
    shutil.rmtree(FINISHED, ignore_errors=True)
    FINISHED.parent.mkdir(parents=True, exist_ok=True)
    os.replace(run_dir, FINISHED)


@program("reinforce")
def main(argv: Sequence[str] | None = None) -> int:
    """`python -m tasks.reinforce [--set key=value ...]`."""
    reinforce(parse_arguments("reinforce", argv))
    return 0


if __name__ == "__main__":
    sys.exit(main())
