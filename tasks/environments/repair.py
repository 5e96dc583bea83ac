"""Family `repair`: a Python function of four to six lines with one wrong token; hidden cases decide.

The instruction says what the function should give, shows a call that goes wrong and the file itself; the agent
edits the file with a short command. Mutations as in SWE-smith (arXiv 2504.21798), at the size of a toy.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.environments import mutations
from tasks.environments.functions import Arguments, Function, draw_function
from tasks.environments.mutations import Mutation
from tasks.environments.task import Split, Task, task_id

MAX_TURNS = 3
PATH = "fix.py"
SLIPS = {"operator": 0.8, "comparison": 0.9, "constant": 1.2, "variable": 1.1}  # multiply the slip rate
FAILED = "an error"


@dataclass(frozen=True)
class Plan:
    """A correct function, the mutation in the agent's copy, and how one case comes out."""

    function: Function
    mutation: Mutation
    broken: str
    expected: list[object]
    call: str
    outcome: str


def generate(seed: int, split: Split) -> Task:
    """The task of this seed."""
    plan = draw_plan(seed, split)
    pairs = zip(plan.function.arguments, plan.expected, strict=True)
    cases = [{"args": arguments, "expected": expected} for arguments, expected in pairs]
    hidden = json.dumps({"module": PATH, "function": "f", "cases": cases})
    failing = f"{PATH}: f should give {plan.function.description}, but {plan.call} gives {plan.outcome}"
    fix = mutations.sed_command(plan.broken, mutations.inverse(plan.mutation))
    return Task(
        id=task_id("repair", split, seed), family="repair", seed=seed, split=split, template=plan.function.template,
        instruction=f"{failing}\n{plan.broken}", files={PATH: plan.broken},
        tests={"cases.json": hidden}, solution=(fix,), artifacts=(PATH,), horizon=1, max_turns=MAX_TURNS,
    )  # fmt: skip


def expert(task: Task, rng: random.Random, slip_rate: float) -> list[str]:
    """The commands of a demonstration: the right edit, or a forgotten flag, a wrong edit, or a misspelt file."""
    plan = draw_plan(task.seed, task.split)
    right = task.solution[0]
    if rng.random() >= slip_rate * SLIPS[plan.mutation.kind]:
        return [right]
    draw = rng.random()
    if draw < 0.12:
        return [right.replace(PATH, rng.choice(("fix.p", "ix.py", "fx.py"))), right]
    if draw < 0.45:
        forgotten = right.replace("sed -i ", "sed ")
        return [forgotten, right] if rng.random() < 0.3 else [forgotten]
    return [_wrong_edit(plan, rng, same_place=draw < 0.75)]


def solved(task: Task, state: Mapping[str, str]) -> bool:
    """Whether the function in a final state gives the expected results; for edits that `expert` made only."""
    cases = json.loads(task.tests["cases.json"])["cases"]
    function = _compiled(state[PATH])
    return all(outcome(function, case["args"]) == case["expected"] for case in cases)


def _wrong_edit(plan: Plan, rng: random.Random, same_place: bool) -> str:
    """An edit of the right token to a wrong one, or of another token."""
    undo = mutations.inverse(plan.mutation)
    spot = (undo.line, undo.token)
    edits = [edit for edit in mutations.mutations(plan.broken) if edit != undo]
    chosen = [edit for edit in edits if ((edit.line, edit.token) == spot) == same_place] or edits
    return mutations.sed_command(plan.broken, rng.choice(chosen))


def draw_plan(seed: int, split: Split) -> Plan:
    """The pure function from a seed to a plan: the first mutation in random order that some case notices."""
    rng = random.Random(f"repair/{split}/{seed}")
    while True:
        function = draw_function(rng, split)
        right = _compiled(function.source)
        expected = [outcome(right, case) for case in function.arguments]
        candidates = _candidates(function.source)
        for mutation in rng.sample(candidates, 3):
            broken = mutations.apply(function.source, mutation)
            got = [outcome(_compiled(broken), case) for case in function.arguments]
            wrong = [i for i, (a, b) in enumerate(zip(got, expected, strict=True)) if a != b]
            if wrong and FAILED not in expected:
                call = f"f({', '.join(map(str, function.arguments[wrong[0]]))})"
                return Plan(function, mutation, broken, expected, call, str(got[wrong[0]]))


def outcome(function: Callable[..., Any], arguments: Arguments) -> object:
    """What a call gives, or the words "an error"."""
    try:
        return function(*arguments)
    except (TypeError, IndexError, NameError, AttributeError, ValueError, ArithmeticError):
        return FAILED


@functools.lru_cache(maxsize=4096)
def _candidates(source: str) -> list[Mutation]:
    return list(mutations.mutations(source))


@functools.lru_cache(maxsize=16384)
def _compiled(source: str) -> Callable[..., Any]:
    """Compiles a function made from our own templates and swaps; nothing an agent wrote comes here."""
    space: dict[str, Any] = {}
    exec(source, space)  # noqa: S102
    return space["f"]  # type: ignore[no-any-return]
