"""Tasks as folders in the Harbor / Terminal-Bench 2 layout, written and read back without loss.

task.toml, instruction.md, environment/ (Dockerfile and the start state), tests/test.sh, solution/solve.sh. Our own
judge reads the tests of a `Task`; `tests/test.sh` of the folder runs the same checks in any harness of that layout
and writes the reward to /logs/verifier/reward.txt.
"""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tasks.cli import one_line
from tasks.environments.task import Task, TaskError
from tasks.files import fault

IMAGE = "python:3.11-slim-bookworm"
CHECKS = "checks.sh"  # a task's own test.sh, in the folder: test.sh there is the harness's entry
OURS = ("family", "seed", "split", "template", "horizon", "max_turns", "solution", "artifacts")  # of task.toml
ADDED = ("test.sh", "run_cases.py")


def write_task(task: Task, folder: Path) -> Path:
    """Writes the task as `folder`/<task id>, replacing what was there; returns that path."""
    target = folder / task.id
    building = folder / f".{task.id}.tmp"
    shutil.rmtree(building, ignore_errors=True)
    tests = {CHECKS if name == "test.sh" else name: text for name, text in task.tests.items()}
    files = {
        "task.toml": _toml(task),
        "instruction.md": task.instruction + "\n",
        "environment/Dockerfile": f"FROM {IMAGE}\nWORKDIR /work\nCOPY files/ /work/\n",
        "solution/solve.sh": "#!/bin/bash\ncd /work\n" + "".join(f"{command}\n" for command in task.solution),
        "tests/test.sh": ENTRY,
        **({"tests/run_cases.py": RUN_CASES} if "cases.json" in tests else {}),
        **{f"tests/{name}": text for name, text in tests.items()},
        **{f"environment/files/{path}": text for path, text in task.files.items()},
    }
    for name, text in files.items():
        (building / name).parent.mkdir(parents=True, exist_ok=True)
        (building / name).write_text(text, encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    os.replace(building, target)
    return target


def read_task(folder: Path) -> Task:
    """The task that `write_task` wrote. Raises TaskError naming the folder when a part is missing or malformed."""
    try:
        _refuse_links(folder)
        settings = tomllib.loads((folder / "task.toml").read_text(encoding="utf-8"))
        instruction = (folder / "instruction.md").read_text(encoding="utf-8").removesuffix("\n")
        return _task(folder, settings, instruction)
    except ValidationError as error:
        raise TaskError(f"The folder {folder} is not a task in the Harbor layout: {fault(error)}.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        said = one_line(str(error)).rstrip(".")
        raise TaskError(f"The folder {folder} is not a task in the Harbor layout: {said}.") from error


def _task(folder: Path, settings: Mapping[str, Any], instruction: str) -> Task:
    ours = settings["metadata"]["longhaul"]
    found = _texts(folder / "tests")
    tests = {"test.sh" if name == CHECKS else name: text for name, text in found.items() if name not in ADDED}
    if not tests.keys() & {"test.sh", "cases.json"}:
        raise ValueError(f"it has neither tests/{CHECKS} nor tests/cases.json")
    parts = {name: ours[name] for name in OURS}
    name = settings["task"]["name"].removeprefix("longhaul/")
    texts = {"instruction": instruction, "files": _texts(folder / "environment" / "files"), "tests": tests}
    task: Task = TypeAdapter(Task).validate_python({"id": name, **parts, **texts})
    if not name or min(task.seed, task.horizon, task.max_turns) < 0:
        raise ValueError("its name is empty, or a number of it is negative")
    return task


def _refuse_links(folder: Path) -> None:
    """A link may lead to any file of this machine, which would become a part of the task."""
    found = next((path for path in sorted(folder.rglob("*")) if path.is_symlink()), None)
    if found is not None:
        raise ValueError(f"{found.relative_to(folder)} is a link")


def _texts(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def _toml(task: Task) -> str:
    def section(name: str, pairs: Iterable[tuple[str, object]]) -> str:
        # JSON's strings, numbers, booleans and arrays of strings are TOML's
        return f"\n[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in pairs)

    return (
        'schema_version = "1.1"\n'
        + section("task", [("name", f"longhaul/{task.id}"), ("description", task.template)])
        + section("metadata", [("category", task.family), ("tags", [task.family, task.split])])
        + section("metadata.longhaul", [(key, getattr(task, key)) for key in OURS])
        + section("verifier", [("timeout_sec", 60.0)])
        + section("agent", [("timeout_sec", 120.0)])
        + section("environment", [("cpus", 1), ("memory_mb", 256), ("storage_mb", 64), ("allow_internet", False)])
    )


ENTRY = """#!/bin/bash
passed=1
check() {
  local id="$1"
  shift
  if timeout 5 "$@"; then echo "ok $id"; else echo "failed $id"; passed=0; fi
}
cd /work || exit 1
if [ -e /tests/checks.sh ]; then . /tests/checks.sh; fi
if [ -e /tests/cases.json ]; then check cases python3 -I /tests/run_cases.py; fi
mkdir -p /logs/verifier
echo "$passed" > /logs/verifier/reward.txt
"""
RUN_CASES = """import json
import runpy
import sys

SPEC = json.load(open("/tests/cases.json"))
FUNCTION = runpy.run_path("/work/" + SPEC["module"])[SPEC["function"]]
sys.exit(any(FUNCTION(*case["args"]) != case["expected"] for case in SPEC["cases"]))
"""
