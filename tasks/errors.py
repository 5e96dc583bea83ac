"""The two ways a program of ours ends badly: the person's mistake, or the machine's failure.

An exception that carries `exit_status` is said as one sentence; `tasks.cli` turns it into the program's end.
"""

from __future__ import annotations

MISTAKE = 2  # of whoever typed the command or wrote the file: another start would end the same way
FAILURE = 1  # of the machine, or a fault of ours: another start may succeed


class InputError(ValueError):
    """What was given cannot be used; the message is one full sentence that names the file, key or line."""

    exit_status = MISTAKE


class MachineError(RuntimeError):
    """The machine, a server or a library let a program down; the message is one full sentence that names it."""

    exit_status = FAILURE
