"""Grades a finished episode in a clean room: a fresh box, tests the agent never saw, artifacts as plain files."""

import time
from collections.abc import Mapping

from tasks.judge.python_cases import Level, parse_cases, run_python_cases
from tasks.judge.shell_tests import run_shell_tests, test_ids
from tasks.judge.verdict import Findings, GradedTask, TestsError, Verdict
from tasks.sandbox import OVERFLOW, SandboxError, SandboxFactory


def grade(
    task: GradedTask, artifacts: Mapping[str, bytes], factory: SandboxFactory, level: Level = "runtime"
) -> Verdict:
    """Run the task's hidden tests over `artifacts` (what `Box.collect` gave) and say what happened.

    Levels: "static" (the module parses; for tests in the Python form only) and "runtime" (the tests pass). Empty or
    missing artifacts, NaN and a run cut short fail. A box that could not be opened, or tests whose three accounts
    (exit code, report, log) contradict each other, give a verdict with `error` set. Raises TestsError for tests in
    no known form.
    """
    start = time.monotonic()
    try:
        findings = _run(task, artifacts, factory, level)
    except SandboxError as error:
        findings = Findings({}, "", str(error))
    passed = findings.error is None and bool(findings.tests) and all(findings.tests.values())
    seconds = time.monotonic() - start
    return Verdict(passed, float(passed), findings.tests, findings.log, factory.isolation, seconds, findings.error)


def _run(task: GradedTask, artifacts: Mapping[str, bytes], factory: SandboxFactory, level: Level) -> Findings:
    if OVERFLOW in artifacts:
        reason = artifacts[OVERFLOW].decode(errors="replace")
        return Findings(dict.fromkeys(_names(task), False), f"The artifacts could not be collected: {reason}.")
    if "cases.json" in task.tests:
        return run_python_cases(task.id, task.tests, artifacts, factory, level)
    if "test.sh" not in task.tests or level == "static":
        raise TestsError(f"The tests of task {task.id} have neither test.sh nor cases.json for level {level!r}.")
    return run_shell_tests(task.id, task.tests, artifacts, factory)


def _names(task: GradedTask) -> list[str]:
    """The ids of the tests of a task."""
    if "cases.json" in task.tests:
        return [f"case_{number}" for number in range(len(parse_cases(task.id, task.tests["cases.json"]).inputs))]
    return test_ids(task.id, task.tests.get("test.sh", ""))
