"""Runs a program under a guard, hands every line it prints to a callback, and fails with its last words."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from tasks.errors import MachineError

LineHandler = Callable[[str], Awaitable[None]]
LONGEST_LINE = 1 << 20  # bytes; asyncio's own bound is 64 KiB, and a longer line would end the stream


class CommandError(MachineError):
    """A program ended with a status other than 0; the message is one line, `lines` are the last that it printed."""

    def __init__(self, message: str, lines: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.lines = tuple(lines)


def reason(command: Sequence[str], status: int, lines: Sequence[str]) -> str:
    """The sentence that the program itself ended with, without what DVC says after it; its last line if it is none."""
    said = [line for line in lines if not line.startswith("ERROR: failed to reproduce")]
    last = said[-1] if said else ""
    if last.endswith(".") and not last.startswith("["):
        return last
    return f"`{' '.join(command)}` ended with status {status}; its last line was {last!r}."


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
        raise CommandError(reason(command, status, tail), tail)
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
