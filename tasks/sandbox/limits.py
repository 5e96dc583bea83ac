"""What a box may use, what a command in it returned, and the errors of the sandbox."""

from dataclasses import dataclass

from tasks.bubblewrap import advice
from tasks.errors import MachineError


class SandboxUnavailable(MachineError):
    """This machine cannot give the isolation level asked for; the message says what is missing."""


class SandboxError(MachineError):
    """A box could not be opened or was used wrongly: the fault of the machine or the caller, not of the agent."""


@dataclass(frozen=True)
class Limits:
    """Bounds of one box. Memory, processes and disk hold for the whole box, CPU seconds for each process."""

    memory_mb: int = 256
    processes: int = 32
    cpu_seconds: int = 5
    wall_seconds: float = 10
    output_bytes: int = 65536
    disk_mb: int = 16

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise SandboxError(f"The sandbox limit {name} must be greater than 0, but is {value}.")


@dataclass(frozen=True)
class CommandResult:
    """One command's exit code, merged stdout and stderr, wall time in seconds, and what it sent as its report."""

    exit_code: int
    output: str
    timed_out: bool
    seconds: float
    report: bytes = b""


def not_started(said: str) -> SandboxError:
    """The error of a box that did not start, of which bubblewrap said this, and what to type against it."""
    words = said.rstrip(".")
    return SandboxError(f"The sandbox could not start a box; bubblewrap said: {words}{advice(words)}.")
