"""Environment cards: `python -m tasks.environments.card [--tasks 60]` measures every family and writes a page.

For each family and split: the oracle must pass every task, doing nothing must pass none, no attack may pass, and the
same attempt must get the same verdict each time (flake rate).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.cli import Parser, program, whole
from tasks.environments.attacks import attacks
from tasks.environments.registry import families, generate
from tasks.environments.task import SPLITS, Split, Task
from tasks.judge import grade
from tasks.sandbox import Limits, open_sandbox

PAGE = Path("docs/environments.md")
REPEATS = 3  # oracle verdicts a task, for the flake rate
FIRST_SEED = 50_000  # away from the seeds of training and evaluation


@dataclass(frozen=True)
class Card:
    """What was measured for one family and split; `flaky` counts tasks whose repeated verdicts differ."""

    family: str
    split: Split
    tasks: int
    oracle: int
    nothing: int
    attacks: int
    attacks_passed: int
    flaky: int
    errors: int
    horizons: Mapping[int, int]
    verdict_ms: float

    @property
    def good(self) -> bool:
        """Whether the family may be used."""
        return self.oracle == self.tasks and not (self.nothing or self.attacks_passed or self.flaky or self.errors)


def attempt(task: Task, commands: Sequence[str], factory: Any) -> Any:
    """Runs the commands in a fresh box, collects the artifacts, and has them graded in another; the judge's verdict."""
    with factory.box(task.files) as box:
        for command in commands:
            box.run(command)
        artifacts = box.collect(task.artifacts)
    return grade(task, artifacts, factory)


def measure(family: str, split: Split, count: int, factory: Any) -> Card:
    """The card of `count` tasks of a family and split."""
    tasks = [generate(family, FIRST_SEED + i, split) for i in range(count)]
    oracle = [[attempt(task, task.solution, factory) for _ in range(REPEATS)] for task in tasks]
    nothing = [attempt(task, (), factory) for task in tasks]
    hostile = [attempt(task, commands, factory) for task in tasks for commands in attacks(task).values()]
    verdicts = [*(verdict for repeats in oracle for verdict in repeats), *nothing, *hostile]
    horizons = [task.horizon for task in tasks]
    return Card(
        family=family, split=split, tasks=count,
        oracle=sum(repeats[0].passed for repeats in oracle), nothing=sum(verdict.passed for verdict in nothing),
        attacks=len(hostile), attacks_passed=sum(verdict.passed for verdict in hostile),
        flaky=sum(len({verdict.passed for verdict in repeats}) > 1 for repeats in oracle),
        errors=sum(verdict.error is not None for verdict in verdicts),
        horizons={horizon: horizons.count(horizon) for horizon in sorted(set(horizons))},
        verdict_ms=1000 * sorted(verdict.seconds for verdict in verdicts)[len(verdicts) // 2],
    )  # fmt: skip


def page(cards: Sequence[Card], isolation: str, load: float) -> str:
    """The Markdown page; `load` is the machine's load average, without which the milliseconds say little."""
    rows = [
        f"| {card.family} | {card.split} | {card.tasks} | {card.oracle}/{card.tasks} | {card.nothing}/{card.tasks} "
        f"| {card.attacks_passed}/{card.attacks} | {card.flaky}/{card.tasks} | {card.errors} "
        f"| {', '.join(f'{horizon}: {number}' for horizon, number in card.horizons.items())} | {card.verdict_ms:.0f} |"
        for card in cards
    ]
    conditions = f"Isolation of every box: {isolation}\n\nLoad average while measuring: {load:.1f}.\n"
    return HEADER + "\n".join(rows) + "\n\n" + conditions + NOTES


@program("tasks.environments.card")
def main(argv: Sequence[str] | None = None) -> int:
    """Measures all families and writes the page; 1 when one of them may not be used."""
    parser = Parser(prog="python -m tasks.environments.card")
    parser.add_argument("--tasks", type=whole(1), default=60, help="tasks of each family and split")
    count = parser.parse_args(argv).tasks
    cards = []
    with open_sandbox("bubblewrap", Limits()) as factory:
        for family in families():
            for split in SPLITS:
                cards.append(measure(family, split, count, factory))
                print(f"[card] step {len(cards)}/{len(families()) * len(SPLITS)} {cards[-1]}", flush=True)
        isolation = factory.isolation
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(cards, isolation, os.getloadavg()[1]), encoding="utf-8")
    return 0 if all(card.good for card in cards) else 1


HEADER = """# Environments

`python -m tasks.environments.card` measures this page: fresh boxes, the real judge, seeds that neither training nor
evaluation uses. `oracle` and `nothing` are tasks passed by the solution and by an untouched start state; `attacks` is
attempts that passed of all made (tasks/environments/attacks.py); `flaky` is tasks whose three oracle verdicts differ;
`errors` is verdicts the judge could not reach; `horizon` is the number of tasks by the commands the oracle needs.

| family | split | tasks | oracle | nothing | attacks passed | flaky | errors | horizon | verdict ms (median) |
|---|---|---|---|---|---|---|---|---|---|
"""
NOTES = """
## What the families are

- **shell**: one piece of file work (17 kinds: copy, sort, count, grep, cut, sed ...) in one sentence. In a fifth of
  the tasks the source's name is not told; it must be looked up in a folder or in a note first (horizon 2), or a
  command must be written that looks it up itself.
- **chain**: two or three such pieces in one instruction; a later one often reads what an earlier one wrote.
- **repair**: a Python function of four to six lines with one wrong token. The instruction says what the function
  should give, shows one call that goes wrong, and the file. Nine or fewer hidden calls decide.

A task is a pure function of (family, seed, split), made by `tasks.environments.registry.generate`.

## What is held out

Words are shared by the splits, compositions are not: held-out `shell` tasks use (kind, phrasing) pairs and pairs of
names that training never holds; held-out `chain` tasks also orders of kinds; held-out `repair` tasks use templates
(shape and parts) that training never holds. Each word, phrase part, kind and template part occurs in training.
The rules are in words.py, chain.py and functions.py; tests/tasks/environments/test_splits.py checks thousands of tasks.

## Demonstrations

`python -m tasks.demonstrate` lets experts work on train tasks for real. They slip on purpose, at their family's
`slip_rates` times a factor of the kind (0.7 to 1.4): a misspelt name, seen and repaired; or a wrong command, most
often the habit of that kind, rarely noticed. Kinds with a high factor go wrong more often than right, so a model that
imitates picks the wrong command greedily: this is where reinforcement can gain more than steadiness. Failed
demonstrations stay in the set.
"""

if __name__ == "__main__":
    sys.exit(main())
