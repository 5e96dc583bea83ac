"""Processes by an identity that no later process has: number and start time, as /proc tells them."""

from __future__ import annotations

import os
from pathlib import Path


def identity(pid: int) -> str:
    """`<pid>-<start, in ticks since the machine started>`; "" where there is none, or one that has ended already."""
    return f"{pid}-{fields[19]}" if (fields := _status(pid)) and fields[0] not in "ZX" else ""


def lives(identity_: str) -> bool:
    """Whether the process of this identity has not ended."""
    pid = identity_.partition("-")[0]
    return pid.isdecimal() and identity(int(pid)) == identity_


def ancestor(program: str) -> str | None:
    """The identity of the nearest process above this one whose command line names `program`; None if there is none."""
    pid = os.getppid()
    while pid > 1 and (fields := _status(pid)):
        if program in {Path(word).name for word in _command(pid)[:4]}:
            return identity(pid)
        pid = int(fields[1])
    return None


def _status(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat after the name: state, parent, ...; none where the process has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
    except OSError:
        return []
