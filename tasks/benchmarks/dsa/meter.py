"""CPU seconds of training with the evaluations in between left out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Meter:
    """Counts from its making; the clock stands still inside `paused`."""

    def __init__(self) -> None:
        self._begin, self._left_out = time.process_time(), 0.0

    @property
    def seconds(self) -> float:
        """Counted so far, of all threads of this process."""
        return time.process_time() - self._begin - self._left_out

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside is not counted."""
        before = time.process_time()
        yield
        self._left_out += time.process_time() - before
