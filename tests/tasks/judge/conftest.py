import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pytest

from tasks.judge import Verdict, grade
from tasks.sandbox import Limits, SandboxFactory, open_sandbox


@dataclass(frozen=True)
class Task:
    id: str
    files: Mapping[str, str]
    tests: Mapping[str, str]
    solution: tuple[str, ...]
    artifacts: tuple[str, ...]


SHELL = Task(
    id="shell-sort",
    files={"names.txt": "cid\nbob\nann\n", "old.txt": "x\n"},
    tests={
        "test.sh": (
            "check sorted cmp -s out.txt /tests/expected.txt\n"
            "check source_kept cmp -s names.txt /tests/names.txt\n"
            "check old_removed test ! -e old.txt\n"
        ),
        "expected.txt": "ann\nbob\ncid\n",
        "names.txt": "cid\nbob\nann\n",
    },
    solution=("sort names.txt >out.txt", "rm old.txt"),
    artifacts=("**/*",),
)

CASES = [([0], 0), ([1], 1), ([7], 13), ([[]], [[]]), (["ab"], ["ab", 2]), ([{"k": [1.5]}], {"k": [1.5]})]

REPAIR = Task(
    id="repair-shape",
    files={"solution.py": "def f(x):\n    return x\n"},
    tests={
        "cases.json": json.dumps(
            {
                "module": "solution.py",
                "function": "f",
                "cases": [{"args": arguments, "expected": expected} for arguments, expected in CASES],
            }
        )
    },
    solution=(
        "cat >solution.py <<'X'\n"
        "def f(x):\n"
        "    if type(x) is int:\n"
        "        return 2 * x - 1 if x else 0\n"
        "    if isinstance(x, str):\n"
        "        return (x, len(x))\n"
        "    return [x] if x == [] else x\n"
        "X",
    ),
    artifacts=("**/*",),
)

Attempt = Callable[[Task, list[str]], Verdict]


@pytest.fixture(scope="session")
def factory() -> Iterator[SandboxFactory]:
    with open_sandbox(limits=Limits(memory_mb=64, processes=16, cpu_seconds=2, disk_mb=4)) as opened:
        yield opened


@pytest.fixture
def attempt(factory: SandboxFactory) -> Attempt:
    """Run an agent's commands in a box of their own, kill it, and grade what is left."""

    def play(task: Task, commands: list[str]) -> Verdict:
        with factory.box(task.files) as box:
            for command in commands:
                box.run(command)
            artifacts = box.collect(task.artifacts)
        return grade(task, artifacts, factory)

    return play


@pytest.fixture
def shell_task() -> Task:
    return SHELL


@pytest.fixture
def repair_task() -> Task:
    return REPAIR
