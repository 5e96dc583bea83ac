"""The judge worker: `python -m tasks.rl.judging --run-dir RUN`.

Grades finished episodes in fresh boxes. A verdict that could not be reached (the environment failed) is stored as an
error without a reward, never as reward 0. No torch is imported here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from tasks.environments.registry import generate
from tasks.judge import grade
from tasks.rl.selection import random_reward
from tasks.rl.trajectory import Trajectory
from tasks.rl.worker import Every, Worker, boxes, worker_main

GRADERS = 2  # verdicts under way at once; a grader mostly waits for its box
BATCH = 16
IDLE_SECONDS = 0.02

Outcome = tuple[float | None, str | None]


def run(worker: Worker) -> None:
    """The worker's body."""
    with boxes() as factory:
        judge_until_the_end(worker, factory)


def judge_until_the_end(worker: Worker, factory: Any) -> None:
    """Leases, grades and records until the run ends."""
    settings = worker.spec.reinforce
    renewal = Every(settings.lease_seconds / 4)

    def judge(trajectory: Trajectory) -> Outcome:
        if settings.reward == "random":
            return random_reward(worker.spec.seed, trajectory.group, trajectory.sample), None
        return verdict(trajectory, factory)

    pool = ThreadPoolExecutor(GRADERS)
    try:
        while not worker.should_stop():
            leased = worker.store.lease_finished(worker.name, BATCH, settings.lease_seconds)
            _judge_all(worker, pool, judge, leased, renewal)
            if not leased:
                _keep_leases(worker, renewal)
                time.sleep(IDLE_SECONDS)
    finally:
        pool.shutdown(cancel_futures=True)


def _judge_all(
    worker: Worker,
    pool: ThreadPoolExecutor,
    judge: Callable[[Trajectory], Outcome],
    leased: list[Trajectory],
    renewal: Every,
) -> None:
    """Records each verdict as it comes; returns early when the worker is to stop."""
    waiting = {pool.submit(judge, trajectory): trajectory for trajectory in leased}
    while waiting and not worker.should_stop():
        done, _ = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
        for verdict_of in done:
            _record(worker, waiting.pop(verdict_of), verdict_of)
        _keep_leases(worker, renewal)


def _record(worker: Worker, trajectory: Trajectory, verdict_of: Future[Outcome]) -> None:
    """One verdict's error is that verdict's alone: it is attempted again, and the episode put aside after the last."""
    key = (trajectory.group, trajectory.sample, worker.name)
    problem = verdict_of.exception()
    if problem is not None:
        reason = f"the judge broke off with {type(problem).__name__}: {problem}"
        worker.store.break_off_verdict(*key, reason)
        worker.note(f"the verdict of {trajectory.task_id}: {reason}")
        return
    reward, error = verdict_of.result()
    worker.store.record_verdict(*key, reward, error)
    if error:
        worker.note(f"the verdict of {trajectory.task_id} failed: {error}")


def _keep_leases(worker: Worker, renewal: Every) -> None:
    if renewal.due():
        worker.store.renew(worker.name, worker.spec.reinforce.lease_seconds)
        worker.store.release_expired()


def verdict(trajectory: Trajectory, factory: Any) -> Outcome:
    """(reward, None) or (None, why the environment failed)."""
    task = generate(trajectory.family, trajectory.task_seed, "train")
    result = grade(task, trajectory.artifacts, factory)
    return (None, result.error) if result.error else (float(result.reward), None)


if __name__ == "__main__":
    sys.exit(worker_main("judging", run))
