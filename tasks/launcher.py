"""What the environment says of the processes that train together: a launcher's variables, or what one left behind."""

from __future__ import annotations

import os
from dataclasses import dataclass

from tasks.errors import InputError

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # torchrun sets all of them, and so does every other
ALONE = "`env -u WORLD_SIZE` before the command starts one process alone"


class LauncherError(InputError):
    """Variables of a launcher that fit no group of processes; the message names the first."""


@dataclass(frozen=True)
class Launch:
    """The place of this process: its number of `ranks`, its number on its machine, where the group meets."""

    rank: int
    ranks: int
    local_rank: int
    meeting: str


def launched() -> Launch | None:
    """The place that a launcher gave this process; None for a process that trains alone.

    Some of the variables without the others, which a shell or a batch system left behind, make no group. Raises
    LauncherError where all are there and one is no number or out of range.
    """
    if any(not os.environ.get(name) for name in NEEDED) or _number("WORLD_SIZE", 1) == 1:
        return None
    ranks = _number("WORLD_SIZE", 1)
    meeting = f"{os.environ['MASTER_ADDR']}:{_number('MASTER_PORT', 1, 65535)}"
    local = _number("LOCAL_RANK", 0, ranks - 1) if os.environ.get("LOCAL_RANK") else 0
    return Launch(_number("RANK", 0, ranks - 1), ranks, local, meeting)


def settle(launch: Launch | None) -> None:
    """Makes the environment say what `launched` found: torch and DeepSpeed read it by themselves."""
    os.environ.pop("OMPI_COMM_WORLD_LOCAL_RANK", None)  # DeepSpeed ends where it differs from LOCAL_RANK
    if launch is None:
        for name in NEEDED:
            os.environ.pop(name, None)
    os.environ["LOCAL_RANK"] = str(launch.local_rank if launch else 0)  # DeepSpeed asks for it even without a launcher


def _number(name: str, low: int, high: int = 1 << 20) -> int:
    text = os.environ[name].strip()
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and low <= int(text) <= high):
        raise LauncherError(
            f"The variable {name} of the environment is {text!r}, which is no whole number from {low} to {high} as a "
            f"launcher sets it; {ALONE}."
        )
    return int(text)
