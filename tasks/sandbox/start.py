"""Starts the processes of one box and ties them to this process's descriptors."""

import fcntl
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass

from tasks.bubblewrap import advice
from tasks.sandbox.box import Pipes
from tasks.sandbox.cgroup import ControlGroup
from tasks.sandbox.collect import check_path
from tasks.sandbox.limits import SandboxError, not_started

PIPE_BYTES = 1 << 18
FIRST_INHERITED = 10  # the shell's own redirections (the report is 9) name one digit


@dataclass(frozen=True)
class Ends:
    """Our ends of a box's pipes, and the ends and files that bubblewrap inherits, by name or by path in the box."""

    ours: Pipes
    info: int
    theirs: Mapping[str, int]
    files: Mapping[str, int]

    def close_theirs(self) -> None:
        """Close this process's copies of what bubblewrap has inherited."""
        for descriptor in [*self.theirs.values(), *self.files.values()]:
            os.close(descriptor)


class _Opened:
    """What is opened for a box, so that all of it can be closed where the rest cannot be opened."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []

    def pipe(self) -> tuple[int, int]:
        read, write = os.pipe2(os.O_CLOEXEC)
        self._descriptors += [read, write]
        return read, write

    def high(self, descriptor: int) -> int:
        """The same file under a number that no redirection of the shell hits."""
        high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, FIRST_INHERITED)
        os.close(descriptor)
        self._descriptors[self._descriptors.index(descriptor)] = high
        return high

    def memory(self, content: str | bytes) -> int:
        """A file in memory, read from its beginning."""
        descriptor = os.memfd_create("longhaul", os.MFD_CLOEXEC)
        self._descriptors.append(descriptor)
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    def close(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)


def open_ends(filter_program: bytes, files: Mapping[str, str | bytes], report: bool, user: int | None) -> Ends:
    """Pipes for a box, its system-call filter, and its `files` (absolute path in the box: content) in memory.

    Only the output pipe belongs to the box's `user`, who may open it again as /dev/stdout; the others it may not.
    Raises SandboxError, with nothing left open, where this process may open no more.
    """
    opened = _Opened()
    try:
        return _open_ends(opened, filter_program, files, report, user)
    except OSError as error:
        opened.close()
        said = error.strerror or str(error)
        raise SandboxError(f"The sandbox could not open a box's pipes and files: {said}{advice(said)}.") from error


def _open_ends(
    opened: _Opened, filter_program: bytes, files: Mapping[str, str | bytes], report: bool, user: int | None
) -> Ends:
    commands_read, commands = opened.pipe()
    output, output_write = opened.pipe()
    reply, reply_write = opened.pipe()
    info, info_write = opened.pipe()
    with suppress(OSError):  # it is a user's share of all pipes that is used up: a smaller one does too
        fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    if user is not None:
        os.fchown(output_write, user, user)
    theirs = {"stdin": commands_read, "stdout": output_write, "reply": opened.high(reply_write), "info": info_write}
    theirs["filter"] = opened.memory(filter_program)
    report_read = None
    if report:
        report_read, report_write = opened.pipe()
        theirs["report"] = opened.high(report_write)
    contents = {path: opened.memory(content) for path, content in files.items()}
    return Ends(Pipes(commands, output, reply, report_read), info, theirs, contents)


def place(folder: str, files: Mapping[str, str | bytes]) -> dict[str, str | bytes]:
    """`files` by their absolute path below `folder`; SandboxError for a path that would leave it."""
    return {f"{folder}/{check_path(path)}": content for path, content in files.items()}


def start_process(
    starter: Executor, argv: Sequence[str], ends: Ends, group: ControlGroup | None
) -> tuple[subprocess.Popen[bytes], int]:
    """The bubblewrap process, and a pidfd of the box's shell, which is in `group` before it reads a command."""
    try:
        process = starter.submit(_spawn, argv, ends).result()
    except (OSError, RuntimeError) as error:  # RuntimeError: the starter's thread itself could not be started
        os.close(ends.info)
        said = str(error)
        raise SandboxError(f"The sandbox could not start {argv[0]}: {said}{advice(said)}.") from error
    finally:
        ends.close_theirs()
    with os.fdopen(ends.info, "rb") as info:
        text = info.read()
    try:
        return process, _adopt(text, group)
    except (ValueError, KeyError, OSError) as error:
        process.kill()
        process.wait()
        said = os.read(ends.ours.output, 4096).decode(errors="replace").strip() or str(error)
        raise not_started(said) from error


def _adopt(info: bytes, group: ControlGroup | None) -> int:
    """A pidfd of the process that bubblewrap's `info` names, once it is in `group`."""
    shell = os.pidfd_open(int(json.loads(info)["child-pid"]))
    try:
        if group is not None:
            group.add(json.loads(info)["child-pid"])
    except OSError:
        os.close(shell)
        raise
    return shell


def _spawn(argv: Sequence[str], ends: Ends) -> subprocess.Popen[bytes]:
    named = [descriptor for name, descriptor in ends.theirs.items() if name not in ("stdin", "stdout")]
    return subprocess.Popen(
        argv,
        stdin=ends.theirs["stdin"],
        stdout=ends.theirs["stdout"],
        stderr=subprocess.STDOUT,
        pass_fds=[*named, *ends.files.values()],
        env={},
        cwd="/",
    )
