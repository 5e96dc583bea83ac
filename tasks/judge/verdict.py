"""What the judge says about a finished episode."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from tasks.errors import InputError


class TestsError(InputError):
    """A task's hidden tests are not in one of the two forms; the message names the task and what is wrong."""

    __test__ = False  # pytest: not a test class


class GradedTask(Protocol):
    """The part of a task that the judge needs (see tasks.environments for the whole)."""

    @property
    def id(self) -> str:
        """The name of the task, for messages."""

    @property
    def tests(self) -> Mapping[str, str]:
        """Files below /tests of the judge's box."""


@dataclass(frozen=True)
class Verdict:
    """Passed only if every test passed. With `error` set the environment failed: discard it, it is no reward of 0."""

    passed: bool
    reward: float
    tests: Mapping[str, bool]
    log: str
    isolation: str
    seconds: float
    error: str | None = None


@dataclass(frozen=True)
class Findings:
    """What one run of the tests showed, before it is turned into a verdict."""

    tests: Mapping[str, bool]
    log: str
    error: str | None = None
