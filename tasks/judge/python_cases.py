"""Tests in the Python form: the candidate's function is called in a box, its values are compared out here.

The expected values never enter the box, so nothing there can read, patch or imitate the comparison: an object
whose `==` is always true, a walk over stack frames or an early exit(0) yields no value that is equal.
"""

import json
import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks.cli import one_line
from tasks.judge.verdict import Findings, TestsError
from tasks.sandbox import CommandResult, SandboxFactory
from tasks.sandbox.collect import check_path

Level = Literal["static", "runtime"]
CPU_SECONDS = 2
WALL_SECONDS = 4.0
LOG_CHARACTERS = 4000
CANDIDATE = Path(__file__).with_name("candidate.py").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Cases:
    """A parsed cases.json: call `function` of `module` with each of `inputs`, and expect the value beside it."""

    module: str
    function: str
    inputs: tuple[list[object], ...]
    expected: tuple[object, ...]


def parse_cases(task_id: str, text: str) -> Cases:
    """Read cases.json; TestsError names the task and what is wrong with it."""
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
        cases = [(case["args"], case["expected"]) for case in data["cases"]]
        module, function = check_path(data["module"]), str(data["function"])
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        said = one_line(repr(error)).rstrip(".")
        raise TestsError(f"The tests/cases.json of task {task_id} cannot be read: {said}.") from error
    if not cases or not all(isinstance(arguments, list) for arguments, _ in cases):
        raise TestsError(f"The tests/cases.json of task {task_id} needs at least one case, each with a list 'args'.")
    if not re.fullmatch(r"[A-Za-z_]\w*", function):
        raise TestsError(
            f"The tests/cases.json of task {task_id} names the function {function[:80]!r}, which is no name."
        )
    return Cases(module, function, tuple(a for a, _ in cases), tuple(e for _, e in cases))


def run_python_cases(
    task_id: str, tests: Mapping[str, str], artifacts: Mapping[str, bytes], factory: SandboxFactory, level: Level
) -> Findings:
    """Run the cases in a fresh box; level "static" stops after the module has been parsed."""
    cases = parse_cases(task_id, tests["cases.json"])
    names = ["static"] if level == "static" else [f"case_{number}" for number in range(len(cases.inputs))]
    if cases.module not in artifacts:
        return Findings(dict.fromkeys(names, False), f"The artifact {cases.module} is missing.")
    nonce = secrets.token_hex(8)
    delivered = {"candidate.py": CANDIDATE, "inputs.json": json.dumps(cases.inputs)}
    with factory.box(artifacts, delivered, report=True) as box:
        result = box.run(_command(cases, nonce, level, factory.python), WALL_SECONDS)
    return _find(cases, names, nonce, result)


def _command(cases: Cases, nonce: str, level: Level, python: str) -> str:
    module = "'" + f"/work/{cases.module}".replace("'", "'\\''") + "'"
    run = f"exec {python} -I -S -B /tests/candidate.py {module} {cases.function} {nonce} {level}"
    return f"( ulimit -t {CPU_SECONDS}; {run} )"


def _find(cases: Cases, names: list[str], nonce: str, result: CommandResult) -> Findings:
    lines = _lines(result.report, nonce)
    log = result.output[-LOG_CHARACTERS:] + "".join(f"{name} {said[-1][:200]}\n" for name, said in lines.items())
    if "start" not in lines:
        reason = f"The candidate's process did not start (exit code {result.exit_code})."
        return Findings(dict.fromkeys(names, False), log, reason)
    whole = result.exit_code == 0 and lines.get("end") == [""]
    if names == ["static"]:
        return Findings({"static": whole and lines.get("static") == [""]}, log)
    tests = {
        name: whole and _is_value(lines.get(name, []), expected)
        for name, expected in zip(names, cases.expected, strict=True)
    }
    return Findings(tests, log + ("" if whole else f"The process ended early with exit code {result.exit_code}.\n"))


def _lines(report: bytes, nonce: str) -> dict[str, list[str]]:
    """What was said under each name, in lines that bear the nonce."""
    found: dict[str, list[str]] = {}
    for line in report.decode(errors="replace").split("\n")[:-1]:
        bearer, _, rest = line.partition(" ")
        name, _, said = rest.partition(" ")
        if bearer == nonce:
            found.setdefault(name, []).append(said)
    return found


def _is_value(said: list[str], expected: object) -> bool:
    """Whether exactly one value was said and it is the expected one, of the same exact type at every depth."""
    if len(said) != 1 or not said[0].startswith("value "):
        return False
    try:
        return same(json.loads(said[0].removeprefix("value "), parse_constant=_refuse_constant), expected)
    except (ValueError, RecursionError):
        return False


def same(value: object, expected: object) -> bool:
    """Equality of JSON values with exact types: True is not 1, 1 is not 1.0, and a number that is not finite fails.

    Example: ``same([1, "a"], [1, "a"])`` is True, ``same([True], [1])`` is False.
    """
    if type(value) is not type(expected):
        return False
    if isinstance(value, list) and isinstance(expected, list):
        return len(value) == len(expected) and all(map(same, value, expected))
    if isinstance(value, dict) and isinstance(expected, dict):
        return value.keys() == expected.keys() and all(same(value[key], expected[key]) for key in expected)
    return value == expected and not (isinstance(value, float) and not math.isfinite(value))


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON value")
