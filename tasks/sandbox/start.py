"""Starts the processes of one box and ties them to this process's descriptors."""

import fcntl
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from tasks.sandbox.box import Pipes
from tasks.sandbox.cgroup import ControlGroup
from tasks.sandbox.collect import check_path
from tasks.sandbox.limits import SandboxError

PIPE_BYTES = 1 << 18
FIRST_INHERITED = 64


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


def open_ends(filter_program: bytes, files: Mapping[str, str | bytes], report: bool, user: int | None) -> Ends:
    """Pipes for a box, its system-call filter, and its `files` (absolute path in the box: content) in memory.

    Only the output pipe belongs to the box's `user`, who may open it again as /dev/stdout; the others it may not.
    """
    commands_read, commands = os.pipe2(os.O_CLOEXEC)
    output, output_write = os.pipe2(os.O_CLOEXEC)
    reply, reply_write = os.pipe2(os.O_CLOEXEC)
    info, info_write = os.pipe2(os.O_CLOEXEC)
    fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    if user is not None:
        os.fchown(output_write, user, user)
    theirs = {"stdin": commands_read, "stdout": output_write, "reply": _high(reply_write), "info": info_write}
    theirs["filter"] = _in_memory(filter_program)
    report_read = None
    if report:
        report_read, report_write = os.pipe2(os.O_CLOEXEC)
        theirs["report"] = _high(report_write)
    contents = {path: _in_memory(content) for path, content in files.items()}
    return Ends(Pipes(commands, output, reply, report_read), info, theirs, contents)


def place(folder: str, files: Mapping[str, str | bytes]) -> dict[str, str | bytes]:
    """`files` by their absolute path below `folder`; SandboxError for a path that would leave it."""
    return {f"{folder}/{check_path(path)}": content for path, content in files.items()}


def start_process(
    starter: Executor, argv: Sequence[str], ends: Ends, group: ControlGroup | None
) -> tuple[subprocess.Popen[bytes], int]:
    """The bubblewrap process, and a pidfd of the box's shell, which is in `group` before it reads a command."""
    process = starter.submit(_spawn, argv, ends).result()
    ends.close_theirs()
    with os.fdopen(ends.info, "rb") as info:
        text = info.read()
    try:
        return process, _adopt(text, group)
    except (ValueError, KeyError, OSError) as error:
        process.kill()
        process.wait()
        said = os.read(ends.ours.output, 4096).decode(errors="replace").strip() or str(error)
        raise SandboxError(f"The sandbox could not start a box; bubblewrap said: {said}.") from error


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


def _high(descriptor: int) -> int:
    """The same file under a number that the shell's own redirections (the report is 9) cannot hit."""
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, FIRST_INHERITED)
    os.close(descriptor)
    return high


def _in_memory(content: str | bytes) -> int:
    descriptor = os.memfd_create("longhaul", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
