from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tasks.environments import expert, families, generate
from tasks.environments.attacks import attacks
from tasks.environments.card import Card, attempt, page
from tasks.environments.registry import family
from tasks.environments.task import SPLITS, Split
from tasks.sandbox import Limits, SandboxFactory, open_sandbox

TASKS = 30


@pytest.fixture(scope="module")
def factory() -> Iterator[SandboxFactory]:
    with open_sandbox("bubblewrap", Limits()) as opened:
        yield opened


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", families())
def test_the_oracle_passes_and_doing_nothing_fails(name: str, split: Split, factory: SandboxFactory) -> None:
    for seed in range(TASKS):
        task = generate(name, 9_000 + seed, split)
        solved = attempt(task, task.solution, factory)
        assert solved.error is None
        assert solved.passed, (task, solved.log)
        untouched = attempt(task, (), factory)
        assert untouched.error is None
        assert not untouched.passed, task


@pytest.mark.parametrize("name", families())
def test_no_attack_passes(name: str, factory: SandboxFactory) -> None:
    for seed in range(3):
        task = generate(name, 9_100 + seed, "heldout")
        for attack, commands in attacks(task).items():
            assert not attempt(task, commands, factory).passed, (attack, task)


@pytest.mark.parametrize("name", families())
def test_the_generators_own_check_agrees_with_the_judge(name: str, factory: SandboxFactory) -> None:
    outcomes = set()
    for seed in range(25):
        task = generate(name, 9_200 + seed, "train")
        commands = expert(task, random.Random(seed), 0.8)
        with factory.box(task.files) as box:
            for command in commands:
                box.run(command)
            state = {path: content.decode() for path, content in box.collect(["**"]).items()}
        ours = family(name).solved(task, state)
        assert ours == attempt(task, commands, factory).passed, (task, commands)
        outcomes.add(ours)
    assert outcomes == {True, False}


def test_the_page_shows_a_bad_card() -> None:
    card = Card("shell", "train", 10, 9, 0, 60, 1, 0, 0, {1: 10}, 12.0)
    assert not card.good
    assert "| 9/10 | 0/10 | 1/60 |" in page([card], "none", 1.0)
