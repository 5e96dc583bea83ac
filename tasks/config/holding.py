"""One run at a time in a working folder, and one set of parameters for all programs of a run.

The lock is the kernel's, on .longhaul/run.lock: it belongs to a living process and ends with it, however that ends.
Its first byte is the run's; programs of the run share the second, so that a new run waits for what an ended one
leaves behind. The holder's name stands in the file, for the sentence that refuses a second run. Programs of a run
know it by the variable LONGHAUL_RUN and read the run's copy of params.yaml; edits of the file are for the next run.

Under plain `dvc repro` every stage holds the folder by itself. DVC writes into dvc.lock what it finds in params.yaml
when a stage has ended, so a file that was edited since the first stage ends the run with one sentence.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tasks.config import copies, processes
from tasks.config.errors import ConfigError
from tasks.errors import MISTAKE, MachineError
from tasks.launcher import launched

HOME = Path(".longhaul")
LOCK = "run.lock"
TOKEN = "LONGHAUL_RUN"
RUN, PROGRAMS = 0, 1  # bytes of the lock file
LONGEST = 120  # characters of its command that a sentence repeats
PATIENCE_SECONDS = 20.0  # for the programs of a run that was killed; flows.guard ends them in less
_HELD: dict[Path, Hold] = {}  # of this process. It must not open a lock file twice: closing one lets go of both
_GUARD = threading.Lock()


class FolderInUse(ConfigError):
    """Another run holds the working folder; the message says which."""


@dataclass(frozen=True)
class Holder:
    """What the lock file says of the run that holds it."""

    id: str
    pid: int
    command: str
    since: str


@dataclass
class Hold:
    """This process's hold on a folder; `joined`: it is a program of a run that another process began."""

    folder: Path
    run: str  # the run's id
    joined: bool
    file: int = field(repr=False)
    users: int = 1

    def release(self) -> None:
        """Lets go once the last user in this process has."""
        with _GUARD:
            self.users -= 1
            if self.users == 0:
                _HELD.pop(self.folder, None)
                if not self.joined:
                    _leave(self.folder, self.file, self.run)
                os.close(self.file)

    def freeze(self, params: Path) -> Path:
        """The run's own copy of the parameter file, made now."""
        return copies.make(self.folder / HOME, self.run, params)

    def frozen(self, params: Path) -> Path:
        """The run's own copy, made now if it was not yet."""
        return copies.find(self.folder / HOME, self.run) or self.freeze(params)

    def parameters(self, params: Path, stage: str) -> Path:
        """The file that a stage's program reads. Raises ConfigError where DVC's run began with another content."""
        if self.joined:
            return copies.find(self.folder / HOME, self.run) or params
        dvc = processes.ancestor("dvc") if "DVC_STAGE" in os.environ else None
        if dvc is None:
            return params
        copy = copies.find(self.folder / HOME, dvc) or copies.make(self.folder / HOME, dvc, params)
        copies.refuse_change(copy, params)
        atexit.register(_refuse_change, copy, params.resolve(), stage)
        return copy


def is_first_rank() -> bool:
    """Of the processes that torchrun starts for one stage, the first holds the folder for all."""
    launch = launched()
    return launch is None or launch.rank == 0


@contextlib.contextmanager
def held(command: str) -> Iterator[Hold]:
    """Holds the working folder for a block. Raises FolderInUse where another run holds it."""
    hold = take(command)
    try:
        yield hold
    finally:
        hold.release()


def take(command: str) -> Hold:
    """Holds the working folder, or joins the run that this program is part of. Raises FolderInUse."""
    folder = Path.cwd()
    with _GUARD:
        hold = _HELD.get(folder)
        if hold is not None:
            hold.users += 1
            return hold
        hold = _HELD[folder] = _take(folder, command)
    return hold


def join() -> None:
    """Where this program is part of a run, keeps a new run waiting until it has ended. Raises FolderInUse."""
    if TOKEN in os.environ:
        hold = take("a program of a run")
        if not hold.joined:
            hold.release()


def _take(folder: Path, command: str) -> Hold:
    while True:
        file = _open(folder / HOME)
        try:
            if not _lock(file, RUN, fcntl.LOCK_EX):
                return _join(folder, file)
            if _is_there(file, folder):
                return _begin(folder, file, command)
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # the run before took it away at its end, between our opening and our lock


def _begin(folder: Path, file: int, command: str) -> Hold:
    _wait_for_programs(folder, file)
    holder = Holder(processes.identity(os.getpid()), os.getpid(), command, time.strftime("%Y-%m-%d %H:%M:%S"))
    os.ftruncate(file, 0)
    os.pwrite(file, json.dumps(asdict(holder)).encode() + b"\n", 0)
    os.environ[TOKEN] = holder.id  # for the programs that this one starts
    return Hold(folder, holder.id, False, file)


def _open(home: Path) -> int:
    for attempt in range(50):
        try:
            home.mkdir(exist_ok=True)
            return os.open(home / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except (FileNotFoundError, FileExistsError):  # a run that ended took its empty folder away meanwhile
            time.sleep(0.001 * attempt)
        except OSError as error:
            why = error.strerror
            raise MachineError(f"The folder {home} cannot be written, so no run starts here: {why}.") from error
    raise MachineError(f"The folder {home} cannot be made, so no run starts here.")


def _is_there(file: int, folder: Path) -> bool:
    """Whether the open file is still the one that others find by its name."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(folder / HOME / LOCK))
    except FileNotFoundError:
        return False


def _leave(folder: Path, file: int, run: str) -> None:
    """Takes away what the run had of its own, unless programs of it still work."""
    with contextlib.suppress(OSError):  # what stays does no harm
        if _lock(file, PROGRAMS, fcntl.LOCK_EX) and _is_there(file, folder):
            copies.forget(folder / HOME, run)
            (folder / HOME / LOCK).unlink()
            (folder / HOME).rmdir()  # refused where other things are in it


def _lock(file: int, byte: int, kind: int) -> bool:
    """Whether the byte could be locked at once."""
    try:
        fcntl.lockf(file, kind | fcntl.LOCK_NB, 1, byte)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        raise MachineError(f"The file {HOME / LOCK} cannot be locked: {error.strerror}.") from error
    return True


def _join(folder: Path, file: int) -> Hold:
    holder = _read(file)
    if holder is None or os.environ.get(TOKEN) != holder.id:
        raise FolderInUse(_refusal(folder, holder))
    _lock(file, PROGRAMS, fcntl.LOCK_SH)
    return Hold(folder, holder.id, True, file)


def _read(file: int) -> Holder | None:
    """What the holder wrote; it may be about to."""
    for _ in range(20):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            known: dict[str, Any] = json.loads(os.pread(file, 1 << 16, 0))
            return Holder(str(known["id"]), int(known["pid"]), str(known["command"]), str(known["since"]))
        time.sleep(0.05)
    return None


def _refusal(folder: Path, holder: Holder | None) -> str:
    if holder is None:
        return f"Another run holds the folder {folder}; wait until it has ended."
    command = holder.command if len(holder.command) <= LONGEST else f"{holder.command[:LONGEST]}..."
    return (
        f"Another run holds the folder {folder}: `{command}`, process {holder.pid}, since {holder.since}; "
        f"wait until it has ended, or end it with `kill {holder.pid}`."
    )


def _wait_for_programs(folder: Path, file: int) -> None:
    """Until no program of an earlier run is left. Raises FolderInUse where one stays."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not _lock(file, PROGRAMS, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            raise FolderInUse(f"Programs of a run that has ended still work in the folder {folder}; end them first.")
        time.sleep(0.1)
    fcntl.lockf(file, fcntl.LOCK_UN, 1, PROGRAMS)


def _refuse_change(copy: Path, params: Path, stage: str) -> None:
    """At the end of a stage that DVC started: nothing is written into dvc.lock that the stage did not use."""
    try:
        copies.refuse_change(copy, params, ("profile", "profiles", "seed", "model", stage))
    except ConfigError as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(MISTAKE)
