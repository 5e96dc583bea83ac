"""Tries many inputs of one kind on its real reader, and keeps the smallest input of every misbehaviour."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis.errors import HypothesisException
from hypothesis.strategies import SearchStrategy

from tasks.errors import FAILURE, MISTAKE

ROOT = Path(__file__).parents[2]
HANG_SECONDS = 20
MEMORY = 12 << 30  # bytes of addresses
LONGEST = 1200  # characters of a sentence


class Nonsense(Exception):
    """What was accepted cannot be right; the message says why."""


class Spent(BaseException):
    """The time is over; no Exception, so that hypothesis lets it through."""


class Hang(BaseException):
    """One input took too long."""


@dataclass(frozen=True)
class Target:
    """A kind of input: how to write one into an empty folder, and the reader with its oracle.

    `read` returns after the oracle is content, raises Nonsense where it is not, and else raises what the reader
    raises. A sentence must match one of `names`: the file, the key, the line. `statuses`: 2 alone for a person's file.
    """

    name: str
    cases: SearchStrategy[Any]
    write: Callable[[Path, Any], None]
    read: Callable[[Path], None]
    names: tuple[str, ...]
    statuses: frozenset[int] = frozenset({MISTAKE})


STORED = frozenset({MISTAKE, FAILURE})  # what a program of ours wrote for itself may also be the machine's failure


@dataclass(frozen=True)
class Violation:
    """A way in which a reader misbehaves, and its smallest input."""

    what: str
    case: str = ""
    folder: str = ""


@dataclass
class Report:
    """What happened to the inputs of a target."""

    target: str
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    violations: list[Violation] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """`what` is empty where the reader behaved."""

    accepted: bool
    what: str = ""


def judge(target: Target, folder: Path) -> Outcome:
    """Reads the folder's input and says whether that ended as it must."""
    before = _names(folder)
    try:
        with _clock(), chdir(folder):
            target.read(folder)
    except (Spent, KeyboardInterrupt):
        raise
    except BaseException as error:
        return Outcome(False, _fault(target, error))
    left = sorted(name for name in _names(folder) - before if ".tmp" in name or "draft" in name)
    return Outcome(True, f"half-written: {left[0]} is left behind" if left else "")


def _fault(target: Target, error: BaseException) -> str:
    if isinstance(error, Nonsense):
        return f"accepted: {error}"
    status, words = getattr(error, "exit_status", None), str(error)
    if not isinstance(status, int):
        return f"{type(error).__module__}.{type(error).__name__} at {_place(error)}"
    if status not in target.statuses:
        return f"status {status} instead of {sorted(target.statuses)} at {_place(error)}"
    if len(words.splitlines()) != 1 or not words.endswith(".") or len(words) > LONGEST or not words.isprintable():
        return f"no full sentence at {_place(error)}"
    if not any(re.search(pattern, words) for pattern in target.names):
        return f"the sentence names nothing at {_place(error)}"
    return ""


def _place(error: BaseException) -> str:
    """The innermost line of ours that the error passed."""
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(str(ROOT))]
    inner = [frame for frame in ours if "tests/fuzz" not in frame.filename and "/.venv/" not in frame.filename] or ours
    return f"{os.path.relpath(inner[-1].filename, ROOT)}:{inner[-1].lineno}" if inner else "?"


def _names(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


@contextmanager
def _clock() -> Any:
    def ring(*_: object) -> None:
        raise Hang

    old = signal.signal(signal.SIGALRM, ring)
    signal.alarm(HANG_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


def hunt(name: str, inputs: int, limit: float, start: int, keep: Path) -> Report:
    """One target; its process is bound in memory, so that an input that asks for more is refused and not served."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    from tests.fuzz.targets import TARGETS

    return Hunt(TARGETS[name](), keep).run(inputs, limit, start)


class Hunt:
    """The state of a search over one target."""

    def __init__(self, target: Target, keep: Path | None) -> None:
        self.target, self.keep = target, keep
        self.report = Report(target.name)
        self.known: set[str] = set()
        self.focus = ""  # what hypothesis shrinks at present
        self.last = ""

    def run(self, inputs: int, limit: float, start: int) -> Report:
        """Searches until so many inputs were generated or the time is over."""
        began = time.monotonic()
        self.deadline = began + limit
        with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_memory()) as scratch:
            self.folder = Path(scratch) / "case"
            with suppress(Spent):
                while self.report.inputs < inputs:
                    before = self.report.inputs
                    self._search(inputs - before, start + len(self.known))
                    if not self.focus and self.report.inputs == before:
                        break
                    self.focus = ""
        self.report.seconds = time.monotonic() - began
        return self.report

    def _search(self, inputs: int, number: int) -> None:
        @seed(number)
        @settings(
            max_examples=inputs, database=None, deadline=None, verbosity=Verbosity.quiet, report_multiple_bugs=False,
            phases=(Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck), print_blob=False,
        )  # fmt: skip
        @given(self.target.cases)
        def search(case: Any) -> None:
            self._try(case)

        try:
            search()
        except (_Found, HypothesisException):
            self._record()

    def _try(self, case: Any) -> None:
        if time.monotonic() > self.deadline:
            if self.focus:
                self._record()
            raise Spent
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.target.write(self.folder, case)
        outcome = judge(self.target, self.folder)
        if not self.focus:
            self.report.inputs += 1
            self.report.accepted += outcome.accepted
            self.report.refused += not outcome.accepted and not outcome.what
        if outcome.what and (outcome.what == self.focus or (not self.focus and outcome.what not in self.known)):
            self.focus, self.last = outcome.what, repr(case)[:2000]
            self._save()
            raise _Found

    def _save(self) -> None:
        if self.keep is not None:
            place = self.keep / self.target.name / str(len(self.known))
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(self.folder, place, symlinks=True, ignore=_special)

    def _record(self) -> None:
        place = self.keep / self.target.name / str(len(self.known)) if self.keep else ""
        self.known.add(self.focus)
        self.report.violations.append(Violation(self.focus, self.last, str(place)))


class _Found(Exception):
    pass


def _special(folder: str, names: list[str]) -> list[str]:
    places = [(name, Path(folder) / name) for name in names]
    return [name for name, place in places if not place.is_file() and not place.is_dir()]


def _memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
