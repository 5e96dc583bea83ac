"""The families of environments, by name; a family is two functions."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from tasks.environments import chain, repair, shell, world
from tasks.environments.task import SPLITS, Split, Task, TaskError

MOST_SEEDS = 20  # tried for each distinct task asked for; a family may have fewer than that
Use = Literal["monitoring", "evaluation"]  # of held-out tasks
USES: tuple[Use, ...] = ("monitoring", "evaluation")


@dataclass(frozen=True)
class Family:
    """`generate(seed, split)` gives the task; `expert(task, rng, slip_rate)` the commands of a demonstration;
    `solved(task, final state)` says whether such a demonstration ended well. What a model did only the judge grades.
    """

    generate: Callable[[int, Split], Task]
    expert: Callable[[Task, random.Random, float], list[str]]
    solved: Callable[[Task, Mapping[str, str]], bool]


_FAMILIES: Mapping[str, Family] = {
    "shell": Family(shell.generate, shell.expert, world.solved),
    "chain": Family(chain.generate, chain.expert, world.solved),
    "repair": Family(repair.generate, repair.expert, repair.solved),
}


def families() -> tuple[str, ...]:
    """The names of all families."""
    return tuple(_FAMILIES)


def family(name: str) -> Family:
    """The family of this name. Raises TaskError naming the known ones."""
    if name not in _FAMILIES:
        raise TaskError(f"The environment family {name!r} does not exist; choose one of {', '.join(_FAMILIES)}.")
    return _FAMILIES[name]


def generate(name: str, seed: int, split: Split) -> Task:
    """The task of (family, seed, split): a pure function. Raises TaskError for an unknown family or split."""
    if split not in SPLITS:
        raise TaskError(f"The split {split!r} does not exist; choose one of {', '.join(SPLITS)}.")
    return family(name).generate(seed, split)


def use_of(task: Task) -> Use:
    """What a held-out task is for: `monitoring` measures a run before and after, `evaluation` scores its result.

    The instruction alone decides, so the two share no instruction, whatever the seeds and counts.
    """
    return USES[hashlib.sha256(task.instruction.encode()).digest()[0] % 2]


def heldout(name: str, use: Use, count: int, first_seed: int = 0) -> list[Task]:
    """`count` different held-out tasks for one use, of successive seeds from `first_seed` on.

    Raises TaskError when MOST_SEEDS seeds for each do not give that many.
    """
    return distinct(name, "heldout", count, first_seed, lambda task: use_of(task) == use)


def distinct(
    name: str, split: Split, count: int, first_seed: int = 0, wanted: Callable[[Task], bool] = lambda task: True
) -> list[Task]:
    """`count` wanted tasks of successive seeds, none equal to another by instruction and start state.

    Raises TaskError when MOST_SEEDS seeds for each do not give that many.
    """
    kept: dict[str, Task] = {}
    for seed in range(first_seed, first_seed + MOST_SEEDS * count):
        task = generate(name, seed, split)
        if wanted(task):
            kept.setdefault(task.content_hash, task)
        if len(kept) == count:
            break
    if len(kept) < count:
        raise too_few(name, split, count, len(kept), MOST_SEEDS * count)
    return list(kept.values())


def too_few(name: str, split: Split, asked: int, found: int, seeds: int) -> TaskError:
    """The sentence for a family that has fewer distinct tasks than were asked for."""
    return TaskError(
        f"{asked} distinct tasks were asked for, but {seeds} seeds of the family {name!r} "
        f"(split {split!r}) gave only {found}."
    )


def expert(task: Task, rng: random.Random, slip_rate: float) -> list[str]:
    """The commands of one demonstration of the task, with mistakes at about `slip_rate`."""
    return family(task.family).expert(task, rng, slip_rate)
