"""What was started here: servers.json, process ids with their start times, read as something anyone may have written.

A process counts as ours when id and start time agree: never another program that got the same id.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from flows.settings import ServerError
from tasks.tracking.metrics import write_json

LARGEST_ID = 2**22  # of a process on Linux


class Started:
    """The record in one folder: names of processes, each with its id and the time it was started at."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def running(self, name: str) -> psutil.Process | None:
        """The process of this name, where it still runs."""
        entry = self._read().get(name)
        if entry is None:
            return None
        try:
            process = psutil.Process(int(entry["pid"]))
            same = abs(process.create_time() - entry["created"]) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return None
        return process if same else None

    def remember(self, name: str, pid: int) -> None:
        """Adds a process. Raises ServerError where the file cannot be written."""
        created = psutil.Process(pid).create_time()
        self._write({**self._read(), name: {"pid": pid, "created": created}})

    def end(self, name: str) -> bool:
        """Ends the process of this name with all that it started, and forgets it; whether it ran."""
        process = self.running(name)
        if process is not None:
            _end(process)
        rest = {other: entry for other, entry in self._read().items() if other != name}
        if rest:
            self._write(rest)
        elif self.path.is_file():
            self.path.unlink()
        return process is not None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """One program at a time starts and ends processes here; another waits."""
        with self.path.with_suffix(".lock").open("a") as lock:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, content: Mapping[str, Mapping[str, float]]) -> None:
        try:
            write_json(self.path, content)
        except OSError as error:
            raise ServerError(
                f"The record of the servers, {self.path}, cannot be written ({error.strerror}); "
                "remove what stands there, and end the servers by hand if any run."
            ) from error

    def _read(self) -> dict[str, dict[str, float]]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError):  # a folder, no JSON, no UTF-8, nested without end
            return self._ignored({})
        if not isinstance(content, dict):
            return self._ignored({})
        good = {str(name): entry for name, entry in content.items() if _is_entry(entry)}
        return good if len(good) == len(content) else self._ignored(good)

    def _ignored(self, rest: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        if self.path not in _said:
            _said.add(self.path)
            print(
                f"The record of the servers, {self.path}, is not what `make up` writes and counts as empty: a server "
                "that it named may still run.",
                file=sys.stderr,
            )
        return rest


_said: set[Path] = set()  # one sentence a record and program


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or set(map(type, entry.values())) - {int, float}:
        return False
    pid, created = entry.get("pid", 0), entry.get("created", math.nan)
    return isinstance(pid, int) and 0 < pid <= LARGEST_ID and -(2.0**53) < created < 2.0**53


def _end(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.Error):  # it ended by itself, which is what was wanted
        family = [process, *process.children(recursive=True)]
        for member in family:
            _signal(member, "terminate")
        _, alive = psutil.wait_procs(family, timeout=10)
        for member in alive:
            _signal(member, "kill")


def _signal(process: psutil.Process, how: str) -> None:
    with contextlib.suppress(psutil.Error):
        getattr(process, how)()
