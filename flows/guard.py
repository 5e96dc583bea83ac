"""`python -m flows.guard COMMAND...`: runs a command that cannot outlive the flow that started it.

The guard leads a process group of its own. When its standard input closes (the flow was killed, even by SIGKILL) or
SIGTERM arrives (the flow was cancelled), the whole group is ended: SIGTERM, then SIGKILL after a grace period.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from tasks.cli import program
from tasks.errors import InputError, MachineError

GRACE_SECONDS = 8.0


@program("flows.guard")
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command given on the command line and exits with its status."""
    child = _start(sys.argv[1:] if argv is None else argv)
    ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    signal.signal(signal.SIGINT, lambda *_: ending.set())
    threading.Thread(target=_wait_for_parent, args=(ending,), daemon=True).start()
    while child.poll() is None:
        if ending.wait(0.05):
            _end_group(child)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    if not command:
        raise InputError("The program flows.guard needs a command to run.")
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise MachineError(f"The program {command[0]} cannot be started: {error.strerror}.") from error


def _wait_for_parent(ending: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 4096):  # returns nothing once every writer of the pipe is gone
        pass
    ending.set()


def _end_group(child: subprocess.Popen[bytes]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(os.getpgrp(), signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(os.getpgrp(), signal.SIGKILL)  # ends this process too


if __name__ == "__main__":
    sys.exit(main())
