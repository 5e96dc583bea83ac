from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from model import ModelConfig, Transformer
from model.engine import Engine
from tasks.benchmarks import humaneval
from tasks.benchmarks.humaneval import evaluate_humaneval, grade, grade_all, problems, recorded_calls, replay, truncate

FIRST = problems()[0]
ALWAYS_EQUAL = """
    class Yes:
        def __eq__(self, other): return True
        def __ne__(self, other): return False
        def __bool__(self): return True
        def __repr__(self): return "Yes()"
    return Yes()
"""
LYING_INT = """
    class Two(int):
        def __eq__(self, other): return True
        def __hash__(self): return 0
    return Two(2)
"""
FRAME_WALK = """
    import sys
    frame = sys._getframe()
    while frame:
        for name, value in list(frame.f_globals.items()) + list(frame.f_locals.items()):
            if callable(value) and name in ("check", "grade", "candidate"):
                frame.f_globals[name] = lambda *a, **k: None
        frame = frame.f_back
    return None
"""
ATTACKS = {
    "always equal": ALWAYS_EQUAL,
    "int that equals everything": LYING_INT,
    "frame walk": FRAME_WALK,
    "exit 0": "    import os; os._exit(0)\n",
    "sys.exit": "    raise SystemExit(0)\n",
    "fake lines": "    print('PASSED'); print('True'); return None\n",
    "open the answers": "    open('answers.txt', 'w').write('True\\n' * 100)\n    import os; os._exit(0)\n",
    "patched assertion": "    import builtins\n    builtins.AssertionError = Exception\n    return None\n",
    "literal bomb": "    class B:\n        def __repr__(self): return '(' * 50000\n    return B()\n",
    "code for a literal": "    class B:\n        def __repr__(self): return '__import__(\"os\")'\n    return B()\n",
    "empty": "    pass\n",
    "not python": "    return )(\n",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_fail(name: str, plain_factory: Any) -> None:
    assert not grade(FIRST, ATTACKS[name], plain_factory).passed


def test_reference_solutions_of_some_problems_pass(plain_factory: Any) -> None:
    chosen = {p.id: p.canonical_solution for p in problems() if int(p.id.split("/")[1]) in (0, 32, 33, 38, 50, 53, 162)}
    attempts = grade_all(chosen, plain_factory)
    assert [attempt.reason for attempt in attempts] == [""] * len(chosen)


@pytest.mark.parametrize(
    ("completion", "error"),
    [
        ("    return 1" + "+1" * 100_000, "RecursionError"),
        ("    return " + "-" * 100_000 + "1", "MemoryError"),
        ("    return '\ud800'", "UnicodeEncodeError"),
    ],
    ids=lambda value: value if len(value) < 20 else "",
)
def test_what_the_compiler_cannot_take_is_a_failed_sample(completion: str, error: str, plain_factory: Any) -> None:
    (attempt,) = grade_all({FIRST.id: completion}, plain_factory)
    assert (attempt.passed, attempt.reason, attempt.error) == (False, f"does not compile: {error}", None)


@pytest.mark.slow
def test_all_164_reference_solutions_pass_in_the_sandbox() -> None:
    from tasks.sandbox import open_sandbox

    with_solutions = {problem.id: problem.canonical_solution for problem in problems()}
    attempts = grade_all(with_solutions, open_sandbox())
    assert len(attempts) == 164
    assert [attempt for attempt in attempts if not attempt.passed] == []


def test_nearly_right_answers_fail() -> None:
    calls = len(recorded_calls(FIRST))
    assert replay(FIRST, b"True\n" * calls) != ""
    assert replay(FIRST, b"") != ""


def test_expected_answers_never_enter_the_box(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, str] = {}

    class Spy:
        def box(self, files: Mapping[str, str]) -> Any:
            seen.update(files)
            raise RuntimeError("no box in this test")

    attempt = grade(FIRST, FIRST.canonical_solution, Spy())
    assert attempt.error == "RuntimeError: no box in this test"
    assert not attempt.passed
    assert "assert" not in "".join(seen.values())
    assert len(seen["calls.txt"].splitlines()) == len(recorded_calls(FIRST))


def test_tests_leave_the_global_random_state_alone() -> None:
    import random

    random.seed(7)
    before = random.getstate()
    recorded_calls.cache_clear()
    recorded_calls(problems()[53])
    assert random.getstate() == before


@pytest.mark.parametrize(
    ("completion", "kept"),
    [
        ("    return 1\n\ndef other():\n    pass", "    return 1\n"),
        ("    return 1\n# note", "    return 1"),
        ("    x = 1\n\n    return x\n", "    x = 1\n\n    return x\n"),
        ("    return 1<|endoftext|>more", "    return 1"),
    ],
)
def test_truncation_keeps_the_function_body(completion: str, kept: str) -> None:
    assert truncate(completion) == kept


def test_the_package_holds_164_problems() -> None:
    assert len(humaneval.problems()) == 164


@pytest.mark.parametrize(("new", "context"), [(1, 64), (8, 64), (62, 64)])
def test_a_prompt_that_is_too_long_leaves_room_for_all_tokens(new: int, context: int, plain_factory: Any) -> None:
    shape = ModelConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, moe_intermediate_size=16, num_hidden_layers=1,
        num_nextn_predict_layers=0,
    )  # fmt: skip
    transformer = Transformer(shape)
    transformer.init_weights(0)
    engine = Engine(transformer.eval(), 2, context, native=False)
    sampled: list[int] = []

    def decode(ids: Sequence[int]) -> str:
        sampled.append(len(ids))
        return ""

    evaluate_humaneval(engine, lambda _: [5] * 500, decode, plain_factory, 1, new, context)
    assert sampled == [new]
