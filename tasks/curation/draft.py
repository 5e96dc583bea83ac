"""The folder that a corpus is built in: hidden beside the corpus, this run's alone, gone when the run ends."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.errors import InputError

BUSY = (errno.EWOULDBLOCK, errno.EACCES)


class BusyError(InputError):
    """Another run is building the same corpus."""


@contextmanager
def building(corpus: Path) -> Iterator[Path]:
    """Yields a new hidden sibling of `corpus`. Raises BusyError where another run builds the same corpus.

    The lock is on the parent folder and ends with the process that holds it, so that none is ever left behind. Drafts
    are, by runs that were killed; whoever holds the lock may remove them.
    """
    corpus.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{corpus.name}.building-"
    descriptor = os.open(corpus.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _lock(descriptor, corpus):
            for leftover in corpus.parent.glob(f"{prefix}*"):
                shutil.rmtree(leftover, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(prefix=prefix, dir=corpus.parent))
        try:
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, corpus: Path) -> bool:
    """Whether the file system could lock; where it cannot, a draft of its own still keeps two runs apart."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in BUSY:
            raise BusyError(f"Another run of the stage 'curate' is writing {corpus}; wait for it to end.") from None
        return False
    return True
