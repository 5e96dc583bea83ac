"""dvc.yaml against the code: a stage runs again when anything that it imports or starts has changed."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
STAGES: dict[str, Any] = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
OURS = ("tasks", "model", "kernels")
# Parameters are dependencies by themselves; tracking only records; how a program begins, shares its work and ends, what
# it says and how files are replaced change no content.
EXCEPT = ("tasks.config", "tasks.tracking") + tuple(
    f"tasks.{name}" for name in ("cli", "errors", "files", "machine", "launcher", "bubblewrap", "disk")
)
PROGRAM = re.compile(rf"({'|'.join(OURS)})(\.\w+)+")  # a module's name as text: started as a program


def names(path: Path) -> Iterator[str]:
    """Modules that a file imports or names as programs, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and PROGRAM.fullmatch(node.value):
            yield node.value


def source(module: str) -> Path | None:
    """The file of one of our modules; None for names that are none."""
    if module.split(".")[0] not in OURS or module.startswith(EXCEPT):
        return None
    place = ROOT.joinpath(*module.split("."))
    return next((path for path in (place / "__init__.py", place.with_suffix(".py")) if path.is_file()), None)


def reached(entry: Path) -> set[Path]:
    """Every file of ours that a stage's program may execute."""
    found: set[Path] = set()
    waiting = [entry]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += [file for name in names(path) if (file := source(name))]
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_every_file_a_stage_executes_is_a_dependency(stage: str) -> None:
    covered = [ROOT / dependency for dependency in STAGES[stage]["deps"]]
    files = reached(ROOT / "tasks" / f"{stage}.py")
    missing = [file for file in files if not any(file.is_relative_to(place) for place in covered)]
    assert not sorted(str(file.relative_to(ROOT)) for file in missing)


@pytest.mark.parametrize("stage", STAGES)
def test_no_code_is_a_dependency_that_the_stage_never_executes(stage: str) -> None:
    files = reached(ROOT / "tasks" / f"{stage}.py")
    code = [ROOT / path for path in STAGES[stage]["deps"] if path.startswith(OURS) and path != "tasks/tracking"]
    assert not [str(place) for place in code if not any(file.is_relative_to(place) for file in files)]


def test_the_walk_finds_programs_and_late_imports() -> None:
    files = {str(file.relative_to(ROOT)) for file in reached(ROOT / "tasks/reinforce.py")}
    assert {"tasks/benchmarks/measure.py", "tasks/rl/results.py", "model/engine/native.py"} <= files


@pytest.mark.parametrize("stage", STAGES)
def test_outputs_outlive_a_failed_run(stage: str) -> None:
    for out in STAGES[stage]["outs"]:
        assert all(options["persist"] for options in out.values())
