from __future__ import annotations

import random
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from tasks.environments import TaskError, chain, families, generate, registry, shell
from tasks.environments.functions import draw_function
from tasks.environments.kinds import KINDS
from tasks.environments.registry import distinct, family
from tasks.environments.task import SPLITS, Split, Task
from tasks.environments.words import STEMS, is_heldout_pair, split_phrasings
from tasks.environments.world import names_are_heldout

MANY = 2000


def some(name: str, split: Split, count: int = MANY) -> list[Task]:
    return [generate(name, seed, split) for seed in range(count)]


@pytest.mark.parametrize("name", families())
def test_splits_share_no_task_and_no_instruction(name: str) -> None:
    train, heldout = some(name, "train"), some(name, "heldout")
    assert not {task.content_hash for task in train} & {task.content_hash for task in heldout}
    assert not {task.instruction for task in train} & {task.instruction for task in heldout}
    assert not {task.id for task in train} & {task.id for task in heldout}


def test_repair_templates_are_disjoint() -> None:
    train = {task.template for task in some("repair", "train")}
    heldout = {task.template for task in some("repair", "heldout")}
    assert len(train) > 100
    assert len(heldout) > 30
    assert not train & heldout


def test_every_shape_of_function_is_in_both_splits() -> None:
    shapes = {
        split: {draw_function(random.Random(i), split).template.split("/")[0] for i in range(400)} for split in SPLITS
    }
    assert shapes["train"] == shapes["heldout"] == {"fold", "count", "filter", "best", "index", "span", "branch"}


def test_chain_orders_are_disjoint() -> None:
    def orders(split: Split) -> set[tuple[str, str]]:
        return {(a.kind.name, b.kind.name) for a, b, *_ in (chain.draw_plan(i, split).steps for i in range(MANY))}

    assert len(orders("train")) > 40
    assert not orders("train") & orders("heldout")


def test_name_pairs_follow_the_split() -> None:
    for seed in range(MANY):
        for split in SPLITS:
            assert names_are_heldout(shell.draw_plan(seed, split).slots) == (split == "heldout")


def test_every_kind_has_phrasings_in_both_splits_and_every_part_in_train() -> None:
    for kind in KINDS:
        train = split_phrasings(kind.heads, kind.tails, "train")
        heldout = split_phrasings(kind.heads, kind.tails, "heldout")
        assert heldout
        assert not set(train) & set(heldout)
        assert all(any(text.startswith(head) for text in train) for head in kind.heads)
        assert all(any(text.endswith(tail) for text in train) for tail in kind.tails)


def test_every_stem_is_first_and_second_in_train() -> None:
    for stem in STEMS:
        assert any(not is_heldout_pair(stem, other) for other in STEMS if other != stem)
        assert any(not is_heldout_pair(other, stem) for other in STEMS if other != stem)


@pytest.mark.parametrize("split", SPLITS)
def test_a_share_of_shell_tasks_needs_a_look(split: Split) -> None:
    tasks = some("shell", split, 1000)
    looking = [task for task in tasks if task.template.startswith("look_")]
    assert 120 < len(looking) < 280
    for task in looking:
        source = shell.draw_plan(task.seed, split).slots["a"].rsplit("/", 1)[-1]
        assert source not in task.instruction
        assert task.horizon == 2


@pytest.mark.parametrize("name", families())
def test_the_start_state_is_never_the_solution(name: str) -> None:
    for split in SPLITS:
        for task in some(name, split, 1000):
            assert not family(name).solved(task, task.files), task.id


@pytest.mark.parametrize("name", families())
def test_instructions_are_short_and_say_nothing_of_the_solution(name: str) -> None:
    tasks = some(name, "train", 1000)
    longest = {"shell": 100, "chain": 260, "repair": 300}[name]
    assert max(len(task.instruction) for task in tasks) <= longest
    assert not any(command in task.instruction for task in tasks for command in task.solution)


def test_generation_is_the_same_in_another_process() -> None:
    code = (
        "from tasks.environments import generate, families\n"
        "print([generate(f, i, s).content_hash for f in families() for s in ('train', 'heldout') for i in range(5)])"
    )
    command = [sys.executable, "-c", code]
    outputs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    here = [generate(f, i, s).content_hash for f in families() for s in SPLITS for i in range(5)]
    assert outputs[0] == outputs[1] == f"{here}\n"


def test_distinct_tasks_skip_equal_ones() -> None:
    plain = [generate("repair", seed, "heldout") for seed in range(2000)]
    assert len({task.content_hash for task in plain}) < 2000
    tasks = distinct("repair", "heldout", 2000)
    assert len(tasks) == len({task.content_hash for task in tasks}) == 2000
    assert tasks[0] == plain[0]
    assert distinct("shell", "train", 0) == []


def test_more_distinct_tasks_than_a_family_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    few = replace(family("repair"), generate=lambda seed, split: generate("shell", seed % 3, split))
    monkeypatch.setitem(registry._FAMILIES, "repair", few)  # type: ignore[arg-type]
    assert len(distinct("repair", "heldout", 3)) == 3
    expected = "4 distinct tasks were asked for, but 80 seeds of the family 'repair' (split 'heldout') gave only 3."
    with pytest.raises(TaskError) as caught:
        distinct("repair", "heldout", 4)
    assert str(caught.value) == expected


@pytest.mark.parametrize("name", families())
def test_generation_is_fast(name: str) -> None:
    start = time.process_time()
    for seed in range(100_000, 101_000):
        generate(name, seed, "train")
    assert time.process_time() - start < 1.5  # the aim is 0.5 s; the margin is for loaded machines


def test_importing_the_environments_does_not_import_torch() -> None:
    code = "import sys, tasks.environments.chat, tasks.demonstrate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_family_and_split_are_named() -> None:
    with pytest.raises(TaskError, match="'cooking' does not exist; choose one of shell, chain, repair"):
        generate("cooking", 1, "train")
    with pytest.raises(TaskError, match="'test' does not exist"):
        generate("shell", 1, "test")  # type: ignore[arg-type]
