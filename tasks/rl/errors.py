"""How a program of a run ends when its input or its machine lets it go on no further."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable

from tasks.disk import sentence

KNOWN = (ValueError, RuntimeError, OSError, sqlite3.Error)


def exit_status(work: Callable[[], object]) -> int:
    """Does the work: 0, or 2 with one sentence on stderr for a known error. Any other is a fault and is raised."""
    try:
        work()
    except KNOWN as error:
        print(sentence(error, "reinforce"), file=sys.stderr)
        return 2
    return 0
