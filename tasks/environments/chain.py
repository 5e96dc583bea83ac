"""Family `chain`: two or three pieces of file work in one instruction; a later one may use what an earlier made."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tasks.environments.kinds import BY_NAME, Kind, State
from tasks.environments.task import Split, Task, task_id
from tasks.environments.words import CONTENT, ENDINGS, STEMS, split_phrasings
from tasks.environments.world import draw_world, slip, state_tests

FIRST = tuple(BY_NAME[name] for name in ("copy", "rename", "sort", "join", "tail", "uniq", "sort_unique"))
LATER = tuple(
    BY_NAME[name]
    for name in ("sort", "count", "head", "tail", "copy", "append", "column", "sort_unique", "grep", "replace")
)
HELDOUT_EVERY = 4
SLIP_SHARE = 0.6  # each step slips this much less than a lone shell task, so that whole chains still succeed
MAX_TURNS = 6


@dataclass(frozen=True)
class Step:
    """One piece of work with its names."""

    kind: Kind
    slots: dict[str, str]
    instruction: str


@dataclass(frozen=True)
class Plan:
    """Everything drawn for one task."""

    steps: tuple[Step, ...]
    before: State
    after: State


def is_heldout_order(first: Kind, second: Kind) -> bool:
    """One in four orders (first kind, second kind) is kept for the held-out split; every kind occurs in train."""
    return (FIRST.index(first) + LATER.index(second)) % HELDOUT_EVERY == 0


def generate(seed: int, split: Split) -> Task:
    """The task of this seed."""
    plan = draw_plan(seed, split)
    tests, artifacts = state_tests(plan.before, plan.after)
    solution = tuple(step.kind.command.format(**step.slots) for step in plan.steps)
    return Task(
        id=task_id("chain", split, seed), family="chain", seed=seed, split=split,
        template="+".join(step.kind.name for step in plan.steps),
        instruction=", then ".join(step.instruction for step in plan.steps), files=plan.before, tests=tests,
        solution=solution, artifacts=artifacts, horizon=len(solution), max_turns=MAX_TURNS,
    )  # fmt: skip


def expert(task: Task, rng: random.Random, slip_rate: float) -> list[str]:
    """The commands of a demonstration: each step right, or with a mistake."""
    commands: list[str] = []
    for step in draw_plan(task.seed, task.split).steps:
        slipping = rng.random() < slip_rate * step.kind.slips * SLIP_SHARE
        commands += slip(step.kind, step.slots, rng) if slipping else [step.kind.command.format(**step.slots)]
    return commands


def draw_plan(seed: int, split: Split) -> Plan:
    """The pure function from a seed to a plan, shared by generation and expert."""
    rng = random.Random(f"chain/{split}/{seed}")
    before, slots = draw_world(rng, split)
    state = dict(before)
    steps = [_step(rng, split, rng.choice(FIRST), state, slots)]
    orders = [kind for kind in LATER if is_heldout_order(steps[0].kind, kind) == (split == "heldout")]
    for _ in range(rng.choice((1, 1, 2))):
        slots = _later_slots(rng, state, steps[-1].slots)
        steps.append(_step(rng, split, rng.choice(orders), state, slots))
        orders = list(LATER)
    return Plan(tuple(steps), before, state)


def _step(rng: random.Random, split: Split, kind: Kind, state: State, slots: dict[str, str]) -> Step:
    kind.effect(state, slots)
    phrasing = rng.choice(split_phrasings(kind.heads, kind.tails, split))
    return Step(kind, slots, phrasing.format(**slots))


def _later_slots(rng: random.Random, state: State, last: dict[str, str]) -> dict[str, str]:
    """Names for a later step: half the time its source is what the last step wrote."""
    rich = [path for path in sorted(state) if all(" " in line for line in state[path].splitlines())]
    source = last["b"] if last["b"] in rich and rng.random() < 0.5 else rng.choice(rich)
    used = {path.split(".")[0] for path in state}
    target = rng.choice([stem for stem in STEMS if stem not in used]) + rng.choice(ENDINGS)
    words = [word for line in state[source].splitlines() for word in line.split() if word in CONTENT]
    fresh = rng.choice([word for word in CONTENT if word not in state[source]])
    other = rng.choice([path for path in sorted(state) if path != source])
    return {**last, "a": source, "b": target, "c": other, "k": "2", "w": rng.choice(words), "v": fresh}
