"""The learner: `python -m tasks.rl.learner --run-dir RUN`.

Step v takes a batch of judged groups, trains version v into v + 1, and publishes weights and optimizer state with
one rename; then it marks the batch as trained. A learner killed before the rename trains the same batch again from
the same state; one killed after it only makes up for the mark.
"""

from __future__ import annotations

import fcntl
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tasks.rl.admission import Decision, ReadyGroup, choose_batch, staleness
from tasks.rl.batch import Example, examples_of
from tasks.rl.optimisation import build_optimizer, optimizer_tensors, restore_optimizer, train_step
from tasks.rl.policy import PolicyError, PolicyStore
from tasks.rl.spec import policies_path
from tasks.rl.worker import Worker, worker_main

WAIT_SECONDS = 0.05


class Learner:
    """The model at the latest published version, its optimizer, and the batches still to train."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.store = worker.store
        self.settings = worker.spec.reinforce
        self.policies = PolicyStore(policies_path(worker.run_dir), self.settings.keep_policies)
        self.version = self._recover()
        self.model = self.policies.load(self.version)
        self.optimizer = build_optimizer(self.model, self.settings)
        restore_optimizer(self.model, self.optimizer, self.policies.load_learner(self.version))
        self._since = time.monotonic()

    def _recover(self) -> int:
        """The version to go on from; makes up for a mark that a killed learner could not set."""
        latest, marked = self.policies.latest(), self.store.version()
        if latest == marked + 1:
            self.store.mark_trained(marked, self.policies.metrics(latest))
        elif latest != marked:
            raise PolicyError(
                f"The policy store {self.policies.root} ends at version {latest}, but the trajectory store has trained"
                f" {marked} steps; they are not of one run."
            )
        return latest

    def run(self) -> None:
        """Until all updates are done or the worker is told to stop."""
        while self.version < self.settings.updates and not self.worker.should_stop():
            groups = self.store.claim(self.version, self._decide)
            if groups is None:
                time.sleep(WAIT_SECONDS)
            elif not self._train(groups):
                return

    def _decide(self, ready: Sequence[ReadyGroup], consumed: int) -> Decision:
        settings = self.settings
        return choose_batch(
            ready, self.version, settings.max_staleness, settings.groups_per_batch, consumed, settings.oversample
        )

    def _train(self, groups: Sequence[int]) -> bool:
        examples = [example for group in groups for example in examples_of(self.store.read_group(group))]
        started = time.monotonic()
        seed = self.worker.spec.seed * 1_000_003 + self.version
        trained = train_step(
            self.model, self.optimizer, examples, self.settings, self.version, seed,
            keep_going=lambda: not self.worker.should_stop(),
        )  # fmt: skip
        if trained is None:
            return False
        metrics = {**trained, **self._describe(examples, groups), "train_seconds": time.monotonic() - started}
        self._publish(metrics)
        return True

    def _publish(self, metrics: dict[str, Any]) -> None:
        tensors = optimizer_tensors(self.model, self.optimizer)
        self.policies.publish(self.model, self.version + 1, tensors, metrics)
        self.store.mark_trained(self.version, metrics)
        self.version += 1
        print(progress(self.version, self.settings.updates, metrics), flush=True)

    def _describe(self, examples: Sequence[Example], groups: Sequence[int]) -> dict[str, Any]:
        rewards = self.store.rewards(self.version)
        oldest = [example.trajectory.first_version for example in examples]
        seconds = time.monotonic() - self._since
        self._since = time.monotonic()
        seen = sum(len(example.trajectory.token_ids) for example in examples)
        return {
            "reward": statistics.fmean(rewards) if rewards else 0.0,
            "rewarded": len(rewards),
            "groups": len(groups),
            "trajectories": len(examples),
            "staleness": staleness(self.version, oldest),
            "mean_staleness": statistics.fmean(self.version - first for first in oldest) if oldest else 0.0,
            "dropped": sum(self.store.dropped().values()),
            "seconds": seconds,
            "tokens_per_second": seen / max(seconds, 1e-9),
            "time": time.time(),
        }


def progress(version: int, updates: int, metrics: dict[str, Any]) -> str:
    """The line that people and the flow read."""
    return (
        f"[reinforce] step {version}/{updates} reward {metrics['reward']:.3f} staleness {metrics['staleness']}"
        f" entropy {metrics['entropy']:.3f} dropped {metrics['dropped']} tok/s {metrics['tokens_per_second']:.0f}"
    )


@contextmanager
def only_learner(run_dir: Path) -> Iterator[None]:
    """Waits until no other learner of this run is alive; the kernel frees the lock of a killed one."""
    with (run_dir / "learner.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def run(worker: Worker) -> None:
    """The worker's body."""
    torch.set_num_threads(worker.spec.reinforce.threads)
    with only_learner(worker.run_dir):
        Learner(worker).run()


if __name__ == "__main__":
    sys.exit(worker_main("learner", run))
