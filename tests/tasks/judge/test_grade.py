import dataclasses
import json
from types import SimpleNamespace

import pytest

from tasks.judge import TestsError, Verdict, grade
from tasks.judge.shell_tests import _agree
from tasks.sandbox import OVERFLOW, CommandResult, SandboxFactory

RIGHT = {"out.txt": b"ann\nbob\ncid\n", "names.txt": b"cid\nbob\nann\n"}


def one_case(expected: object, arguments: list[object] | None = None) -> SimpleNamespace:
    case = {"args": arguments or [], "expected": expected}
    return SimpleNamespace(
        id="one", tests={"cases.json": json.dumps({"module": "m.py", "function": "f", "cases": [case]})}
    )


def verdict_of(source: str, expected: object, factory: SandboxFactory) -> Verdict:
    return grade(one_case(expected), {"m.py": source.encode()}, factory)


def test_the_oracle_passes_and_doing_nothing_fails(attempt, shell_task, repair_task) -> None:
    for task in (shell_task, repair_task):
        solved, idle = attempt(task, list(task.solution)), attempt(task, [])
        assert (solved.passed, solved.reward, solved.error) == (True, 1.0, None), solved.log
        assert (idle.passed, idle.reward, idle.error) == (False, 0.0, None), idle.log


def test_a_verdict_names_every_test_and_the_isolation(factory: SandboxFactory, shell_task) -> None:
    verdict = grade(shell_task, {**RIGHT, "old.txt": b""}, factory)
    assert verdict.tests == {"sorted": True, "source_kept": True, "old_removed": False}
    assert verdict.isolation == factory.isolation
    assert verdict.seconds > 0
    assert "old_removed 1" in verdict.log


@pytest.mark.parametrize("content", [b"", b"\0", b"ann\nbob\ncid", b"ann\nbob\ncid\n\n"])
def test_near_misses_fail(factory: SandboxFactory, shell_task, content: bytes) -> None:
    assert not grade(shell_task, {**RIGHT, "out.txt": content}, factory).passed


@pytest.mark.parametrize(
    ("result", "expected", "passed"),
    [
        ("1", 1, True),
        ("True", 1, False),
        ("1.0", 1, False),
        ("0.5", 0.5, True),
        ("(1, 2)", [1, 2], True),
        ("None", None, True),
        ("None", 0, False),
        ("{'a': [1]}", {"a": [1]}, True),
        ("{1: 2}", {"1": 2}, False),
        ("float('nan')", 1.0, False),
        ("float('inf')", 1.0, False),
        ("{1}", [1], False),
        ("b'a'", "a", False),
        ("type('I', (int,), {})(1)", 1, False),
        ("type('S', (str,), {})('a')", "a", False),
        ("10 ** 5000", 1, False),
        ("'\\ud800'", "a", False),
    ],
)
def test_values_are_compared_with_exact_types(
    factory: SandboxFactory, result: str, expected: object, passed: bool
) -> None:
    verdict = verdict_of(f"def f(): return {result}\n", expected, factory)
    assert (verdict.passed, verdict.error) == (passed, None), verdict.log


def test_a_deeply_nested_result_fails_without_harm(factory: SandboxFactory) -> None:
    source = "import os\ndef f(): return 1\nos.write(9, b'x')\n"
    assert not verdict_of(
        source + "def f():\n  x = []\n  for _ in range(90000): x = [x]\n  return x\n", 1, factory
    ).passed


def test_inputs_are_fresh_for_every_case(factory: SandboxFactory) -> None:
    cases = [{"args": [[1]], "expected": 1}, {"args": [[1]], "expected": 1}]
    text = json.dumps({"module": "m.py", "function": "f", "cases": cases})
    source = b"def f(x):\n    x.append(1)\n    return len(x) - 1\n"
    assert grade(SimpleNamespace(id="t", tests={"cases.json": text}), {"m.py": source}, factory).passed


def test_static_level_parses_and_runs_nothing(factory: SandboxFactory) -> None:
    task = one_case(1)
    assert grade(task, {"m.py": b"raise SystemExit(9)\n"}, factory, "static").passed
    assert not grade(task, {"m.py": b"def f(:\n"}, factory, "static").passed
    assert grade(task, {"m.py": b"def f(:\n"}, factory, "static").tests == {"static": False}


def test_modules_may_import_their_neighbours_and_the_standard_library(factory: SandboxFactory) -> None:
    files = {"m.py": b"import math, helper\ndef f(): return helper.g() + math.gcd(4, 6)\n"}
    assert grade(one_case(3), {**files, "helper.py": b"def g(): return 1\n"}, factory).passed


def test_a_missing_module_fails_every_case(factory: SandboxFactory) -> None:
    verdict = grade(one_case(1), {}, factory)
    assert (verdict.tests, verdict.error) == ({"case_0": False}, None)


def test_a_collection_beyond_its_bounds_fails(factory: SandboxFactory, shell_task) -> None:
    only_absence = dataclasses.replace(shell_task, tests={"test.sh": "check gone test ! -e old.txt\n"})
    assert grade(only_absence, {}, factory).passed
    verdict = grade(only_absence, {OVERFLOW: b"too much"}, factory)
    assert (verdict.passed, verdict.error) == (False, None)


def test_a_box_that_does_not_open_is_an_error_and_no_reward(factory: SandboxFactory, shell_task) -> None:
    verdict = grade(shell_task, {**RIGHT, "big": b"x" * (5 << 20)}, factory)
    assert not verdict.passed
    assert "could not start a box" in str(verdict.error)


def test_a_missing_interpreter_is_an_error(factory: SandboxFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(factory), "python", "/usr/bin/no-python")
    assert "did not start" in str(verdict_of("def f(): return 1\n", 1, factory).error)


def test_tests_that_hang_are_an_error(factory: SandboxFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.judge.shell_tests.WALL_SECONDS", 0.3)
    task = SimpleNamespace(id="hang", tests={"test.sh": "check slow sleep 9\n"})
    assert "did not end" in str(grade(task, {}, factory).error)


@pytest.mark.parametrize(
    ("code", "report", "output"),
    [
        (0, "n a 0\nn b 1\n", "n a 0\nn b 1\n"),  # exit code says passed
        (1, "n a 0\nn b 0\n", "n a 0\nn b 0\n"),  # exit code says failed
        (0, "n a 0\n", "n a 0\nn b 0\n"),  # a test is missing from the report
        (0, "n a 0\nn b 0\n", "n a 0\n"),  # a test is missing from the log
        (0, "n b 0\nn a 0\n", "n b 0\nn a 0\n"),  # another order
        (0, "n a 0\nn b 0\nn c 0\n", "n a 0\nn b 0\nn c 0\n"),  # a test too many
        (0, "", ""),
    ],
)
def test_accounts_that_contradict_each_other_are_an_error(code: int, report: str, output: str) -> None:
    assert _agree(["a", "b"], "n", CommandResult(code, output, False, 0.1, report.encode())).error is not None


def test_accounts_that_agree_are_none() -> None:
    text = "n a 0\nn b 0\n"
    assert _agree(["a", "b"], "n", CommandResult(0, text, False, 0.1, text.encode())).error is None


@pytest.mark.parametrize(
    "tests",
    [
        {},
        {"run.sh": "true"},
        {"test.sh": "echo nothing\n"},
        {"test.sh": "check a true\ncheck a true\n"},
        {"test.sh": "check a;b true\n"},
        {"cases.json": "{"},
        {"cases.json": '{"module": "m.py", "function": "f", "cases": []}'},
        {"cases.json": '{"module": "../m.py", "function": "f", "cases": [{"args": [], "expected": 1}]}'},
        {"cases.json": '{"module": "m.py", "function": "f;g", "cases": [{"args": [], "expected": 1}]}'},
        {"cases.json": '{"module": "m.py", "function": "f", "cases": [{"args": [], "expected": NaN}]}'},
        {"cases.json": '{"module": "m.py", "function": "f", "cases": [{"args": 1, "expected": 1}]}'},
    ],
)
def test_tests_in_no_known_form_are_refused_by_name(factory: SandboxFactory, tests: dict[str, str]) -> None:
    with pytest.raises(TestsError, match="of task odd-7"):
        grade(SimpleNamespace(id="odd-7", tests=tests), {"m.py": b"def f(): return 1\n"}, factory)
