"""How a program of a run ends, and the error after which the whole run ends."""

from __future__ import annotations

from collections.abc import Callable

from tasks.cli import program
from tasks.errors import MachineError


class RunStopped(MachineError):
    """The run cannot go on: another start of the worker that says so would end the same way."""


class NotFinite(RunStopped):
    """A loss, a gradient, a weight or a log-probability is NaN or infinite; the message says which."""


def exit_status(work: Callable[[], object], name: str = "reinforce") -> int:
    """Does the work: 0, or the exit status of what went wrong, with one sentence on stderr (see tasks.cli)."""

    @program(name)
    def main(_: object = None) -> None:
        work()

    return main()
