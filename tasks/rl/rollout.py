"""The rollout worker: `python -m tasks.rl.rollout --run-dir RUN`.

Samples episodes with the newest published policy, which it takes over between two decode steps without
dropping an episode, and plans new groups only where admission control lets it.
"""

from __future__ import annotations

import sys

import torch

from model.engine import Engine, NotFinite
from tasks.environments.chat import Chat
from tasks.environments.registry import generate
from tasks.rl.admission import admitted_groups
from tasks.rl.agent import AgentLimits, AgentLoop, BoxFactory, EpisodeSpec
from tasks.rl.errors import RunStopped
from tasks.rl.policy import PolicyStore
from tasks.rl.selection import choose_task, sample_seed
from tasks.rl.spec import policies_path
from tasks.rl.store import Lease
from tasks.rl.trajectory import Trajectory
from tasks.rl.worker import Every, Worker, boxes, worker_main

MODE = "sparse"


class Rollout:
    """The engine, its agent loop and the leases they serve."""

    def __init__(self, worker: Worker, factory: BoxFactory) -> None:
        self.worker = worker
        self.settings = worker.spec.reinforce
        self.policies = PolicyStore(policies_path(worker.run_dir), self.settings.keep_policies)
        length = self.settings.max_context
        version, model = self.policies.load_latest()
        self.engine = Engine(model, self.settings.concurrency, length, mode=MODE, version=version)
        limits = AgentLimits(self.settings.max_action_tokens, length)
        chat = Chat.load(worker.spec.tokenizer, vocab_size=model.config.vocab_size)
        self.loop = AgentLoop(self.engine, chat, factory, limits, self._finished)

    def run(self) -> None:
        """Until the run ends or the worker is told to stop. Raises RunStopped when the policy cannot be sampled."""
        try:
            self._run()
        except NotFinite as error:
            raise RunStopped(
                f"Policy {self.engine.version} cannot be sampled from: {error} The objective is"
                f" {self.settings.objective}, the learning rate {self.settings.learning_rate:g}."
            ) from error
        finally:
            self.loop.close()

    def _run(self) -> None:
        swap, refill, leases = Every(0.2), Every(0.02), Every(self.settings.lease_seconds / 4)
        while not self.worker.should_stop():
            if swap.due():
                self.take_newest_policy()
            if leases.due():
                self.worker.store.renew(self.worker.name, self.settings.lease_seconds)
                self.worker.store.release_expired()
            if refill.due():
                self.refill()
            self.loop.poll()

    def take_newest_policy(self) -> None:
        """Swaps the weights if a newer policy is published; running episodes continue under it."""
        if self.policies.latest() > self.engine.version:
            version, model = self.policies.load_latest()
            self.engine.swap_weights(model.state_dict(), version)

    def refill(self) -> None:
        """Leases planned episodes for the free places, planning new groups while they are admitted."""
        free = self.settings.concurrency - self.loop.active
        while free > 0:
            leased = self.worker.store.lease_planned(self.worker.name, free, self.settings.lease_seconds)
            for lease in leased:
                self.loop.add(self._episode(lease))
            free -= len(leased)
            if free <= 0 or not self._plan(free):
                return

    def _plan(self, episodes: int) -> int:
        settings = self.settings
        version = self.engine.version
        admitted = admitted_groups(version, settings.eta, settings.groups_per_batch, settings.updates)
        return self.worker.store.plan(
            admitted,
            settings.samples_per_group,
            version,
            lambda group: choose_task(self.worker.spec.seed, group, settings.families),
            at_most=-(-episodes // settings.samples_per_group),
        )

    def _episode(self, lease: Lease) -> EpisodeSpec:
        task = generate(lease.family, lease.seed, "train")
        seed = sample_seed(self.worker.spec.seed, lease.group, lease.sample)
        return EpisodeSpec(task, seed, 1.0, lease.group, lease.sample)

    def _finished(self, spec: EpisodeSpec, trajectory: Trajectory) -> None:
        self.worker.store.finish(trajectory, self.worker.name)
        if trajectory.error:
            self.worker.note(f"an episode of {spec.task.id} failed: {trajectory.error}")


def run(worker: Worker) -> None:
    """The worker's body."""
    torch.set_num_threads(worker.spec.reinforce.threads)
    with boxes() as factory:
        Rollout(worker, factory).run()


if __name__ == "__main__":
    sys.exit(worker_main("rollout", run))
