from __future__ import annotations

import random

import pytest

from tasks.environments import expert, families, generate, mutations
from tasks.environments.kinds import BY_NAME
from tasks.environments.repair import draw_plan
from tasks.environments.shell import draw_plan as shell_plan


@pytest.mark.parametrize("name", families())
def test_without_slips_the_expert_is_the_oracle(name: str) -> None:
    for seed in range(300):
        task = generate(name, seed, "train")
        assert tuple(expert(task, random.Random(seed), 0.0)) == task.solution


@pytest.mark.parametrize(("name", "low", "high"), [("shell", 0.5, 0.72), ("chain", 0.5, 0.8), ("repair", 0.45, 0.7)])
def test_slips_come_at_about_the_rate(name: str, low: float, high: float) -> None:
    tasks = [generate(name, seed, "train") for seed in range(2000)]
    slipped = sum(tuple(expert(task, random.Random(task.seed), 0.6)) != task.solution for task in tasks)
    assert low < slipped / len(tasks) < high


def test_habitual_kinds_go_wrong_more_often_than_right() -> None:
    tasks = [generate("shell", seed, "train") for seed in range(6000)]
    wrong = [
        expert(task, random.Random(task.seed), 0.6)[0] != task.solution[0]
        for task in tasks
        if task.template == "count" and shell_plan(task.seed, "train").look is None
    ]
    assert BY_NAME["count"].slips > 1
    assert sum(wrong) / len(wrong) > 0.6


def test_the_expert_is_a_function_of_its_random_numbers() -> None:
    for name in families():
        task = generate(name, 7, "train")
        assert expert(task, random.Random(3), 0.9) == expert(task, random.Random(3), 0.9)


def test_a_mutation_changes_one_token_and_is_undone() -> None:
    for seed in range(300):
        plan = draw_plan(seed, "train")
        assert plan.broken != plan.function.source
        assert mutations.apply(plan.broken, mutations.inverse(plan.mutation)) == plan.function.source


def test_no_mutation_breaks_the_syntax() -> None:
    for seed in range(200):
        source = draw_plan(seed, "train").broken
        for mutation in mutations.mutations(source):
            compile(mutations.apply(source, mutation), "fix.py", "exec")


def test_sed_escapes_what_basic_expressions_treat_specially() -> None:
    source = "def f(a, b):\n    return a * b\n"
    mutation = next(m for m in mutations.mutations(source) if m.old == "*" and m.new == "+")
    assert mutations.sed_command(source, mutation) == r"sed -i 's/a \* b/a + b/' fix.py"


def test_sed_names_the_line_when_no_fragment_is_unique() -> None:
    source = "def f(a, b):\n    return a\n    return a\n"
    mutation = next(m for m in mutations.mutations(source) if m.line == 2)
    assert mutations.sed_command(source, mutation) == "sed -i '3s/return a/return b/' fix.py"
