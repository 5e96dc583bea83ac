"""Whether this machine lets a run do its work: asked at its start, in milliseconds, and not hours later.

What can be mended without harm is mended: closed standard streams, soft limits, a TMPDIR that cannot be used.
"""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
import threading
from pathlib import Path

from tasks.disk import is_full
from tasks.errors import MachineError

WRITTEN = ("", "data", "checkpoints", "metrics", "results", "report", ".longhaul", ".longhaul/state")
SHARED_MEMORY = Path("/dev/shm")
LEAST_FILES = 256  # open at once: six for every box, those of servers and databases, what libraries hold
WANTED_FILES = 8192  # not more: some programs look at every number up to their limit
LEAST_FILE_BYTES = 64 << 20  # a checkpoint and the tracking database are larger than what a stray `ulimit -f` leaves
THREADS = 16  # that a stage's libraries start at least
SHARED_BYTES = 1 << 16  # locks of a pool take a page each


def check_machine(folder: Path = Path(), free_bytes: int = 0) -> None:
    """Raises MachineError, one sentence with what to type, where a run in `folder` would fail later than it has to.

    free_bytes: what the caller is going to write below `folder`, where it knows.
    """
    hold_standard_streams()
    _check_open_files()
    _check_file_size()
    _check_threads()
    _check_temporary_folder()
    _check_shared_memory()
    for name in WRITTEN:
        _check_folder(folder / name)
    _check_space(folder, free_bytes)


def hold_standard_streams() -> None:
    """Opens /dev/null where stdin, stdout or stderr is closed: the next file would take its number, and its output."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, which is this one


def _check_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_FILES if hard == resource.RLIM_INFINITY else min(WANTED_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < LEAST_FILES:
        raise MachineError(
            f"This shell lets a program open {wanted} files at once, and a run needs {LEAST_FILES}: start it from a "
            f"shell in which `ulimit -n` says at least that; who administers the machine can raise the limit."
        )


def _check_file_size() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < LEAST_FILE_BYTES:
        raise MachineError(
            f"This shell lets a program write files of at most {hard} bytes, and a run writes larger ones: start it "
            "from a shell in which `ulimit -f` says unlimited."
        )


def _check_threads() -> None:
    """Tried, not asked: what is allowed counts all processes of the user, and those of a container."""
    over = threading.Event()
    started = []
    try:
        for _ in range(THREADS):
            started.append(threading.Thread(target=over.wait, daemon=True))
            started[-1].start()
    except RuntimeError:
        started.pop()
        raise MachineError(
            f"This user can start only {len(started)} more processes and threads, and a run needs {THREADS} and more: "
            "end some, or raise the limit that `ulimit -u` shows, or in a container its --pids-limit."
        ) from None
    finally:
        over.set()
        for thread in started:
            thread.join()


def _check_temporary_folder() -> None:
    """The programs that this one starts get the same folder as Python finds: some take TMPDIR without a look."""
    try:
        found = tempfile.gettempdir()
    except FileNotFoundError:
        raise MachineError(
            "No folder for temporary files can be written, neither that of TMPDIR nor /tmp: name one that can be, "
            "`export TMPDIR=<folder>`."
        ) from None
    if os.environ.get("TMPDIR"):
        os.environ["TMPDIR"] = found


def _check_shared_memory() -> None:
    """Processes of a pool, and those that train together, lock and share memory by files there."""
    try:
        with tempfile.TemporaryFile(dir=SHARED_MEMORY) as file:
            file.write(bytes(SHARED_BYTES))
    except OSError as error:
        raise MachineError(
            f"The folder {SHARED_MEMORY} cannot be written ({error.strerror}), through which processes share memory: "
            "empty it or mount it, in a container with `--shm-size=1g`."
        ) from None


def _check_folder(folder: Path) -> None:
    """Tried, not asked: permissions say nothing of read-only file systems, nor to root. One to come is no fault."""
    try:
        if folder.exists() or folder.is_symlink():
            with tempfile.TemporaryFile(dir=folder):
                return
    except OSError as error:
        if is_full(error):
            raise
        raise MachineError(
            f"The folder {folder.absolute()} cannot be written ({error.strerror}), and a run writes there: give it to "
            "this user, or work in a copy that belongs to you."
        ) from None


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise MachineError(
            f"The disk of {folder.absolute()} has {free / 1e9:.1f} GB free, and a run writes about "
            f"{needed / 1e9:.1f} GB: free some, or work in a folder on another disk."
        )
