"""The judge worker: `python -m tasks.rl.judging --run-dir RUN`.

Grades finished episodes in fresh boxes. A verdict that could not be reached (the environment failed) is stored as an
error without a reward, never as reward 0. No torch is imported here.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tasks.environments.registry import generate
from tasks.judge import grade
from tasks.rl.selection import random_reward
from tasks.rl.trajectory import Trajectory
from tasks.rl.worker import Every, Worker, worker_main
from tasks.sandbox import Limits, open_sandbox

GRADERS = 2  # verdicts under way at once; a grader mostly waits for its box
BATCH = 16
IDLE_SECONDS = 0.02

Outcome = tuple[float | None, str | None]


def run(worker: Worker) -> None:
    """The worker's body."""
    with open_sandbox("bubblewrap", Limits()) as factory:
        judge_until_the_end(worker, factory)


def judge_until_the_end(worker: Worker, factory: Any) -> None:
    """Leases, grades and records until the run ends."""
    settings = worker.spec.reinforce
    expired = Every(settings.lease_seconds / 4)

    def judge(trajectory: Trajectory) -> Outcome:
        if settings.reward == "random":
            return random_reward(worker.spec.seed, trajectory.group, trajectory.sample), None
        return verdict(trajectory, factory)

    with ThreadPoolExecutor(GRADERS) as pool:
        while not worker.should_stop():
            if expired.due():
                worker.store.release_expired()
            leased = worker.store.lease_finished(worker.name, BATCH, settings.lease_seconds)
            for trajectory, (reward, error) in zip(leased, pool.map(judge, leased), strict=True):
                worker.store.record_verdict(trajectory.group, trajectory.sample, worker.name, reward, error)
            if not leased:
                time.sleep(IDLE_SECONDS)


def verdict(trajectory: Trajectory, factory: Any) -> Outcome:
    """(reward, None) or (None, why the environment failed)."""
    task = generate(trajectory.family, trajectory.task_seed, "train")
    result = grade(task, trajectory.artifacts, factory)
    return (None, result.error) if result.error else (float(result.reward), None)


if __name__ == "__main__":
    sys.exit(worker_main("judging", run))
