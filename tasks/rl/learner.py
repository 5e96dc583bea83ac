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

from tasks.rl.admission import FLAT, Decision, ReadyGroup, choose_batch, exhausted, staleness
from tasks.rl.batch import Example, examples_of
from tasks.rl.errors import RunStopped
from tasks.rl.health import failing, failing_sentence
from tasks.rl.optimisation import (
    Skipped,
    build_optimizer,
    check_outputs,
    optimizer_tensors,
    restore_optimizer,
    train_step,
)
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
        self._skipped = Skipped()
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
            if groups is not None:
                if not self._train(groups):
                    return
            elif self._nothing_to_learn():
                return
            else:
                time.sleep(WAIT_SECONDS)

    def _decide(self, ready: Sequence[ReadyGroup], consumed: int) -> Decision:
        settings = self.settings
        return choose_batch(
            ready, self.version, settings.max_staleness, settings.groups_per_batch, consumed, settings.oversample
        )

    def _nothing_to_learn(self) -> bool:
        """Whether the run ends here, well, with what it has learned. Raises RunStopped where that is nothing.

        Asked when no group of this step is usable.
        """
        settings, dropped = self.settings, self.store.dropped(self.version)
        failed = dropped.get("environment", 0)
        if failing(failed, settings):
            raise RunStopped(failing_sentence(failed, self.version, self.worker.run_dir))
        if not exhausted(dropped, settings.groups_per_batch, settings.oversample):
            return False
        rewards = self.store.rewards(self.version)
        flat = sum(dropped.get(reason, 0) for reason in FLAT)
        sentence = nothing_left(self.version, settings.updates, flat, statistics.fmean(rewards) if rewards else 0.0)
        if self.version == 0 or not any(rewards):
            raise RunStopped(sentence)
        self.store.end(sentence, failed=False)
        print(f"[reinforce] {sentence}", flush=True)
        return True

    def _train(self, groups: Sequence[int]) -> bool:
        examples = [example for group in groups for example in examples_of(self.store.read_group(group))]
        started = time.monotonic()
        seed = self.worker.spec.seed * 1_000_003 + self.version
        trained = train_step(
            self.model, self.optimizer, examples, self.settings, self.version, seed,
            keep_going=lambda: not self.worker.should_stop(), skipped=self._skipped,
        )  # fmt: skip
        if trained is None:
            return False
        if not trained["applied_steps"]:
            self.store.discard_batch(self.version, "untrainable")
            print(f"[reinforce] step {self.version} dropped a batch without a usable gradient", flush=True)
            return True
        check_outputs(self.model, examples, self.settings, self.version)
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
        written = [example.trajectory for example in examples if example.trajectory.sampled_tokens]
        oldest = [trajectory.first_version for trajectory in written]
        seconds = time.monotonic() - self._since
        self._since = time.monotonic()
        seen = sum(len(example.trajectory.token_ids) for example in examples)
        return {
            "reward": statistics.fmean(rewards) if rewards else 0.0,
            "rewarded": len(rewards),
            "groups": len(groups),
            "trajectories": len(examples),
            "staleness": staleness(self.version, oldest),
            "mean_staleness": statistics.fmean(self.version - first for first in oldest),
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


def nothing_left(version: int, updates: int, groups: int, reward: float) -> str:
    """What a run says when no group of a step teaches anything."""
    trained = "Nothing was trained" if version == 0 else f"The run ended after step {version} of {updates}"
    return (
        f"{trained}: all {groups} groups sampled for the next step had equal rewards (mean {reward:.2f}) or no sampled"
        " token, so there is nothing to learn from them."
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
