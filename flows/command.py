"""Runs a program under a guard, hands every line it prints to a callback, and fails with its last words."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from tasks.errors import FAILURE, MISTAKE, MachineError

LineHandler = Callable[[str], Awaitable[None]]
OF_DVC = "ERROR: failed to reproduce"
BY_DVC = re.compile(rf"{OF_DVC} .*failed to run: (.*), exited with (-?\d+)")
LONGEST_LINE = 1 << 20  # bytes; asyncio's own bound is 64 KiB, and a longer line would end the stream


class CommandError(MachineError):
    """A program ended with a status other than 0; the message is one line, `lines` are the last that it printed.

    `exit_status` is 2 where the program says that a person made a mistake, else 1.
    """

    def __init__(self, message: str, lines: Sequence[str] = (), status: int = FAILURE) -> None:
        super().__init__(message)
        self.lines = tuple(lines)
        self.exit_status = MISTAKE if status == MISTAKE else FAILURE


def failure(command: Sequence[str], status: int, lines: Sequence[str]) -> CommandError:
    """The sentence and the status that the program itself ended with, below what DVC says after it."""
    program, status = _ended(command, status, lines)
    said = [line for line in lines if not line.startswith(OF_DVC)]
    last = said[-1] if said else ""
    if not (last.endswith(".") and not last.startswith("[")):
        last = f"`{program}` {_how(status)}; its last line was {last!r}."
    return CommandError(last, lines, status)


def _ended(command: Sequence[str], status: int, lines: Sequence[str]) -> tuple[str, int]:
    """(command line, status) of the stage's program where DVC stands between, else of the command itself."""
    for line in reversed(lines):
        if match := BY_DVC.search(line):
            return match[1], int(match[2])
    return " ".join(command), status


def _how(status: int) -> str:
    number = -status if status < 0 else status - 128 if status > 128 else 0
    if number not in set(signal.Signals):
        return f"ended with status {status}"
    hint = ", as the system does when memory runs out" if number == signal.SIGKILL else ""
    return f"was ended by {signal.Signals(number).name}{hint}"


async def stream(command: Sequence[str], on_line: LineHandler) -> list[str]:
    """Runs `command` to its end and returns its last 40 lines. Raises CommandError when the status is not 0."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "flows.guard", *command,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        start_new_session=True, limit=LONGEST_LINE,
    )  # fmt: skip
    try:
        tail = await _read_lines(process, on_line)
    finally:
        assert process.stdin is not None
        process.stdin.close()  # cancelled or failed here: the guard ends the whole group
        status = await process.wait()
    if status != 0:
        raise failure(command, status, list(tail))
    return list(tail)


async def _read_lines(process: asyncio.subprocess.Process, on_line: LineHandler) -> deque[str]:
    assert process.stdout is not None
    tail: deque[str] = deque(maxlen=40)
    while raw := await process.stdout.readline():
        line = raw.decode(errors="replace").rstrip()
        if line:
            tail.append(line)
            await on_line(line)
    return tail
