"""Held-out agentic tasks: the model works in a sandbox box, the judge grades what it left behind.

Every episode counts. One whose environment failed is not solved, stays in the denominator and is counted apart, as
SWE-bench does with infrastructure failures.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from model.engine import Engine
from tasks.environments.registry import Use, heldout
from tasks.environments.task import Task, TaskError
from tasks.errors import InputError, MachineError
from tasks.judge import grade
from tasks.rl.agent import AgentLimits, BoxFactory, ChatFormat, EpisodeSpec, run_episodes
from tasks.rl.trajectory import Trajectory
from tasks.statistics import Estimate, estimate, pass_at_k, proportion

SEED_STRIDE = 1000  # sampling seeds of one task lie within one stride


class BenchmarkError(InputError):
    """A benchmark cannot be run as asked; the message says why."""


class OutageError(MachineError):
    """Most episodes failed for the machine's sake, so that their share solved says nothing of the model."""


@dataclass(frozen=True)
class Outcome:
    """One graded episode. `error` is set where the environment, not the model, failed."""

    task_id: str
    task_hash: str
    family: str
    template: str
    horizon: int
    sample: int
    temperature: float
    passed: bool
    error: str | None
    turns: int
    failed_commands: int
    finish_reason: str
    isolation: str
    token_ids: tuple[int, ...]
    loss_mask: tuple[int, ...]

    @property
    def key(self) -> tuple[str, int, float]:
        """What pairs this episode with the same one under another model."""
        return self.task_hash, self.sample, self.temperature


@dataclass(frozen=True)
class FamilyResult:
    """The graded episodes of one family at one temperature, and the scores read from them."""

    family: str
    outcomes: tuple[Outcome, ...]

    @property
    def pass_at_1(self) -> Estimate:
        """Share of episodes solved; the interval draws whole tasks."""
        return self._share(self.outcomes)

    @property
    def environment_errors(self) -> int:
        """Episodes whose environment failed; they count as not solved."""
        return sum(outcome.error is not None for outcome in self.outcomes)

    @property
    def mean_turns(self) -> Estimate:
        """Commands run an episode."""
        return estimate([o.turns for o in self.outcomes], [o.task_id for o in self.outcomes])

    @property
    def recovery_rate(self) -> Estimate:
        """Share solved among the episodes in which a command failed."""
        return self._share([outcome for outcome in self.outcomes if outcome.failed_commands])

    def pass_at(self, k: int) -> Estimate:
        """Unbiased pass@k, averaged over tasks (each task needs at least k samples)."""
        tallies: dict[str, list[bool]] = defaultdict(list)
        for outcome in self.outcomes:
            tallies[outcome.task_id].append(outcome.passed)
        return proportion([pass_at_k(len(tally), sum(tally), k) for tally in tallies.values()])

    def by_horizon(self) -> dict[int, Estimate]:
        """Share solved by the number of commands the oracle needs."""
        horizons = sorted({outcome.horizon for outcome in self.outcomes})
        return {h: self._share([o for o in self.outcomes if o.horizon == h]) for h in horizons}

    @staticmethod
    def _share(outcomes: Sequence[Outcome]) -> Estimate:
        if not outcomes:
            return Estimate(0.0, (0.0, 1.0), 0)  # nothing was seen: anything is possible
        return proportion([o.passed for o in outcomes], [o.task_id for o in outcomes])


def evaluate_family(
    engine: Engine,
    chat: ChatFormat,
    factory: BoxFactory,
    family: str,
    tasks: int,
    samples: int,
    temperature: float = 1.0,
    first_seed: int = 0,
    concurrency: int = 96,
    limits: AgentLimits | None = None,
    use: Use = "monitoring",
) -> FamilyResult:
    """Runs `samples` episodes on each of `tasks` distinct held-out tasks of `family` for `use` and grades them.

    The same arguments give the same tasks and sampling seeds, so that two models' results can be paired.
    """
    specs = episode_specs(heldout_tasks(family, tasks, use, first_seed), samples, temperature)
    outcomes = evaluate_episodes(engine, chat, factory, specs, concurrency, limits)
    return FamilyResult(family, tuple(outcomes))


def heldout_tasks(family: str, count: int, use: Use, first_seed: int = 0) -> list[Task]:
    """The first `count` held-out tasks for `use` from `first_seed` on that differ in instruction or start state.

    No task for one use has an instruction of a task for the other. Raises BenchmarkError if the family has too few.
    """
    if count < 1:
        raise BenchmarkError(f"A benchmark needs a task or more of the family {family!r}, but {count} were asked for.")
    try:
        return heldout(family, use, count, first_seed)
    except TaskError as error:
        raise BenchmarkError(f"The family {family!r} cannot be measured: {error}") from error


def episode_specs(tasks: Sequence[Task], samples: int, temperature: float) -> list[EpisodeSpec]:
    """`samples` episodes a task with seeds that depend on the task and the sample only."""
    return [
        EpisodeSpec(task, task.seed * SEED_STRIDE + sample, temperature, group, sample)
        for sample in range(samples)
        for group, task in enumerate(tasks)
    ]


def evaluate_episodes(
    engine: Engine,
    chat: ChatFormat,
    factory: BoxFactory,
    specs: Sequence[EpisodeSpec],
    concurrency: int = 96,
    limits: AgentLimits | None = None,
    on_graded: Callable[[int], None] | None = None,
) -> list[Outcome]:
    """Runs and grades episodes, grading while others still run. Returns outcomes in the order of `specs`.

    Raises OutageError if the environment failed in half of them or more.
    """
    verdicts: dict[int, Future[Outcome]] = {}
    position = {id(spec): index for index, spec in enumerate(specs)}
    with ThreadPoolExecutor(2, thread_name_prefix="judge") as judges:

        def finished(spec: EpisodeSpec, trajectory: Trajectory) -> None:
            verdicts[position[id(spec)]] = judges.submit(_outcome, spec, trajectory, factory)
            if on_graded:
                on_graded(len(verdicts))

        run_episodes(engine, chat, factory, specs, concurrency, finished, limits)
    outcomes = [verdicts[index].result() for index in range(len(specs))]
    _refuse_outage(outcomes)
    return outcomes


def _refuse_outage(outcomes: Sequence[Outcome]) -> None:
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    if errors and 2 * len(errors) >= len(outcomes):
        raise OutageError(
            f"The environments failed in {len(errors)} of {len(outcomes)} held-out episodes, the last time because of"
            f" {errors[-1]!r}; a score of the rest would say nothing."
        )


def by_family(outcomes: Iterable[Outcome]) -> dict[str, FamilyResult]:
    """Outcomes of one temperature, split into families."""
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.family].append(outcome)
    return {family: FamilyResult(family, tuple(group)) for family, group in groups.items()}


def task_hash(task: Task) -> str:
    """Hash [32 hex digits] of all that decides a verdict: instruction, start state, tests, turns allowed."""
    content = [task.id, task.content_hash, sorted(task.tests.items()), task.max_turns]
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


def _outcome(spec: EpisodeSpec, trajectory: Trajectory, factory: Any) -> Outcome:
    task, error, passed = spec.task, trajectory.error, False
    if error is None:
        verdict = grade(task, trajectory.artifacts, factory)
        error, passed = verdict.error, verdict.passed and verdict.error is None
    return Outcome(
        task.id, task_hash(task), task.family, task.template, task.horizon, spec.sample, spec.temperature, passed,
        error, trajectory.turns, trajectory.failed_commands, trajectory.finish_reason, trajectory.isolation,
        tuple(trajectory.token_ids), tuple(trajectory.loss_mask),
    )  # fmt: skip


def to_record(outcome: Outcome, decode: Callable[[Sequence[int]], str]) -> dict[str, Any]:
    """One line of samples.jsonl: the outcome with its transcript as text instead of tokens."""
    record: Mapping[str, Any] = vars(outcome)
    plain = {key: value for key, value in record.items() if key not in ("token_ids", "loss_mask")}
    return plain | {"sampled_tokens": sum(outcome.loss_mask), "text": decode(outcome.token_ids)}
