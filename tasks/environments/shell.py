"""Family `shell`: one piece of file work in one sentence; a fifth of the tasks must look something up first."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tasks.environments.kinds import BY_NAME, KINDS, Kind, State
from tasks.environments.task import Split, Task, task_id
from tasks.environments.words import STEMS, split_phrasings
from tasks.environments.world import draw_world, fit_world, slip, state_tests

LOOKABLE = tuple(BY_NAME[name] for name in ("copy", "head", "tail", "sort", "sort_unique", "count", "grep", "column"))
LOOK_SHARE = 0.2
MAX_TURNS = 3


@dataclass(frozen=True)
class Plan:
    """Everything drawn for one task; `look` is the command that finds out the source's name, if it is not told."""

    kind: Kind
    slots: dict[str, str]
    before: State
    after: State
    instruction: str
    look: str | None


def generate(seed: int, split: Split) -> Task:
    """The task of this seed."""
    plan = draw_plan(seed, split)
    tests, artifacts = state_tests(plan.before, plan.after)
    solution = (*([plan.look] if plan.look else []), plan.kind.command.format(**plan.slots))
    template = f"{'look_' if plan.look else ''}{plan.kind.name}"
    return Task(
        id=task_id("shell", split, seed), family="shell", seed=seed, split=split, template=template,
        instruction=plan.instruction, files=plan.before, tests=tests, solution=solution, artifacts=artifacts,
        horizon=len(solution), max_turns=MAX_TURNS,
    )  # fmt: skip


def expert(task: Task, rng: random.Random, slip_rate: float) -> list[str]:
    """The commands of a demonstration: right, or with a mistake at `slip_rate` times the kind's factor."""
    plan = draw_plan(task.seed, task.split)
    slipping = rng.random() < slip_rate * plan.kind.slips
    if not slipping:
        return list(task.solution)
    if plan.look is None:
        return slip(plan.kind, plan.slots, rng)
    guess = plan.kind.command.format(**{**plan.slots, "a": plan.look.split(" ")[1]})
    if rng.random() < 0.5:  # acts before it looks
        return [guess, *task.solution] if rng.random() < 0.5 else [guess]
    return [plan.look, plan.kind.wrong[0].format(**plan.slots)]


def draw_plan(seed: int, split: Split) -> Plan:
    """The pure function from a seed to a plan, shared by generation and expert."""
    rng = random.Random(f"shell/{split}/{seed}")
    state, slots = draw_world(rng, split)
    look = rng.random() < LOOK_SHARE
    kind = rng.choice(LOOKABLE if look else KINDS)
    fit_world(kind, rng, state, slots)
    named = dict(slots)
    command = None
    if look:
        command, named["a"] = _hide_name(rng, state, slots)
    instruction = rng.choice(split_phrasings(kind.heads, kind.tails, split)).format(**named)
    after = dict(state)
    kind.effect(after, slots)
    return Plan(kind, slots, state, after, instruction, command)


def _hide_name(rng: random.Random, state: State, slots: dict[str, str]) -> tuple[str, str]:
    """Puts the source where it must be looked up. Returns (looking command, what the instruction says)."""
    if rng.random() < 0.5:
        text = state.pop(slots["a"])
        slots["a"] = f"{slots['d']}/{slots['a']}"
        state[slots["a"]] = text
        return f"ls {slots['d']}", f"the file in {slots['d']}"
    used = {path.split(".")[0] for path in [*state, slots["b"]]}
    note = rng.choice([stem for stem in STEMS if stem not in used]) + ".txt"
    state[note] = slots["a"] + "\n"
    return f"cat {note}", f"the file named in {note}"
