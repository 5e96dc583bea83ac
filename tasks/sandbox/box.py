"""One box: a persistent bash inside bubblewrap, driven over pipes from outside."""

import os
import secrets
import select
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from tasks.bubblewrap import advice
from tasks.sandbox.cgroup import ControlGroup
from tasks.sandbox.collect import collect_files
from tasks.sandbox.limits import CommandResult, Limits, SandboxError, not_started

MAX_COMMAND_BYTES = 60_000  # below a pipe's 64 KiB, so that handing a command over never blocks
KILLED = 128 + signal.SIGKILL
FLOOD_FACTOR = 64  # a command that prints this many times what is kept is stopped
REPORT_BYTES = 4 << 20
CHUNK = 65536
CommandDone = tuple[int, bool]


@dataclass
class Pipes:
    """This side's ends of a box: commands go in, output, answers and (in a judge's box) a report come out."""

    commands: int
    output: int
    reply: int
    report: int | None

    def close(self) -> None:
        """Close every descriptor."""
        for descriptor in (self.commands, self.output, self.reply, self.report):
            if descriptor is not None:
                os.close(descriptor)


@dataclass
class _Capture:
    """What has come out of a box since a command was sent."""

    limits: Limits
    output: bytearray = field(default_factory=bytearray)
    reply: bytearray = field(default_factory=bytearray)
    report: bytearray = field(default_factory=bytearray)
    output_total: int = 0
    report_total: int = 0

    def take(self, pipes: Pipes, descriptor: int, data: bytes) -> None:
        if descriptor == pipes.output:
            self.output_total += len(data)
            self.output += data[: max(0, self.limits.output_bytes - len(self.output))]
        elif descriptor == pipes.reply:
            self.reply += data[: max(0, 4096 - len(self.reply))]
        else:
            self.report_total += len(data)
            self.report += data[: max(0, REPORT_BYTES - len(self.report))]

    @property
    def flooded(self) -> bool:
        return self.output_total > self.limits.output_bytes * FLOOD_FACTOR or self.report_total > REPORT_BYTES


class Box:
    """A fresh sandbox for one episode or one verdict. Use from one thread at a time; close it, or use `with`.

    The end of a command and its exit code come over a descriptor that commands do not inherit, with a nonce made
    for this command: no output can imitate it, and an answer without the nonce ends the box. Code that goes on to
    attack its own shell misleads only its own agent: no verdict rests on what such a box says (see tasks.judge).
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        shell: int,
        pipes: Pipes,
        limits: Limits,
        group: ControlGroup | None,
        isolation: str,
    ) -> None:
        self.isolation = isolation
        self.limits = limits
        self._process, self._shell, self._pipes, self._group = process, shell, pipes, group
        self._work: int | None = None
        self._alive, self._closed = True, False

    def __enter__(self) -> "Box":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Wait until the shell serves commands; SandboxError with bubblewrap's own words if it does not."""
        capture = _Capture(self.limits)
        self._pump(capture, time.monotonic() + 30)
        if bytes(capture.reply) != b"ready\n":
            code = self._kill()
            said = capture.output.decode(errors="replace").strip() or f"it gave no reason (exit code {code})"
            raise not_started(said)
        try:
            pid = _namespace_pid(self._shell)
            self._work = os.open(f"/proc/{pid}/root/work", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            said = error.strerror or str(error)
            raise SandboxError(
                f"The sandbox could not open the folder /work of a box: {said}{advice(said)}."
            ) from error

    def run(self, command: str, timeout: float | None = None) -> CommandResult:
        """Run `command` in the box's shell: folder and variables stay for the next one; stdin is /dev/null.

        After `timeout` seconds (default: the limit's wall_seconds), when the output floods, or when the shell
        ends, everything in the box is killed: later commands give exit code 137 and no output.
        """
        start = time.monotonic()
        text = command.replace("\0", "").encode(errors="surrogateescape")
        if len(text) > MAX_COMMAND_BYTES:
            return CommandResult(126, f"command longer than {MAX_COMMAND_BYTES} bytes\n", False, 0.0)
        if not self._alive:
            return CommandResult(KILLED, "", False, 0.0)
        nonce = secrets.token_hex(8)
        capture = _Capture(self.limits)
        code, timed_out = self._exchange(nonce, text, capture, start + (timeout or self.limits.wall_seconds))
        output = capture.output.decode(errors="replace")
        return CommandResult(code, output, timed_out, time.monotonic() - start, bytes(capture.report))

    def collect(self, globs: Iterable[str]) -> dict[str, bytes]:
        """Regular files under /work that match, by relative path; works after the box's processes have ended.

        `*` stays within a folder, `**/` matches any depth. Symbolic links are not followed and not returned.
        Collections beyond the bounds of tasks.sandbox.collect hold OVERFLOW alone, which no judge passes.
        """
        if self._work is None:
            raise SandboxError("The box is closed: collect its files before closing it.")
        return collect_files(self._work, globs, self.limits.disk_mb << 19)  # half: a judge must be able to put it back

    def close(self) -> None:
        """Kill everything in the box and free what it held. Closing twice is allowed."""
        if self._closed:
            return
        self._closed = True
        self._kill()
        self._pipes.close()
        os.close(self._shell)
        if self._work is not None:
            os.close(self._work)
            self._work = None
        if self._group is not None:
            self._group.remove()

    def _exchange(self, nonce: str, text: bytes, capture: _Capture, deadline: float) -> CommandDone:
        try:
            os.write(self._pipes.commands, nonce.encode() + b"\0" + text + b"\0")
        except BrokenPipeError:  # the shell ended after its last answer
            return self._kill(), False
        finished = self._pump(capture, deadline)
        answer = capture.reply.decode(errors="replace").split()
        if finished and answer[:1] == [nonce] and len(answer) == 2 and not capture.flooded:
            return int(answer[1]), False
        timed_out = not finished and not capture.flooded
        code = self._kill()
        return (KILLED, timed_out) if not finished or answer else (code, False)

    def _pump(self, capture: _Capture, deadline: float) -> bool:
        """Read until an answer is there or the shell has ended (True), or the time or output is up (False)."""
        poll = select.poll()
        readers = [self._pipes.output, self._pipes.reply]
        readers += [] if self._pipes.report is None else [self._pipes.report]
        for descriptor in readers:
            poll.register(descriptor, select.POLLIN)
        while True:
            done = not self._read_ready(poll, capture, deadline)
            if done:
                return time.monotonic() < deadline and not capture.flooded
            if capture.flooded:
                return False

    def _read_ready(self, poll: "select.poll", capture: _Capture, deadline: float) -> bool:
        """Take what is there; False when the command is over, its last output included, or the time is up."""
        wait = deadline - time.monotonic()
        ready = poll.poll(max(0.0, wait) * 1000) if wait > 0 else []
        if not ready:
            return False
        ended = False
        for descriptor, _ in ready:
            data = os.read(descriptor, CHUNK)
            if not data:
                poll.unregister(descriptor)
            ended = ended or (descriptor == self._pipes.reply and (not data or data.endswith(b"\n")))
            capture.take(self._pipes, descriptor, data)
        if ended:
            self._drain(capture)
        return not ended

    def _drain(self, capture: _Capture) -> None:
        """What the command wrote before its answer is in the pipes already: take that and no more."""
        for descriptor in (self._pipes.output, self._pipes.report):
            for _ in range(REPORT_BYTES // CHUNK):
                if descriptor is None or not _readable(descriptor):
                    break
                data = os.read(descriptor, CHUNK)
                if not data:
                    break
                capture.take(self._pipes, descriptor, data)

    def _kill(self) -> int:
        """Kill the first process of the box's PID namespace, and so all; return the exit code it ended with."""
        if self._alive:
            self._alive = False
            if not _readable(self._shell):
                _signal(self._shell)
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        return self._process.returncode if self._process.returncode >= 0 else KILLED


def _readable(descriptor: int) -> bool:
    """Whether something is there to be read, or the other end is gone; `select` knows descriptors below 1024 only."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _signal(process: int) -> None:
    try:
        signal.pidfd_send_signal(process, signal.SIGKILL)
    except ProcessLookupError:  # ended between the look and the signal
        return


def _namespace_pid(descriptor: int) -> int:
    """The process id a pidfd stands for, as the host counts."""
    with open(f"/proc/self/fdinfo/{descriptor}") as file:
        fields = dict(line.split(":", 1) for line in file.read().splitlines())
    return int(fields["Pid"])
