"""Which user a box is on the host: an id of its own where this process may hand out ids, else its caller's."""

from __future__ import annotations

import os
from pathlib import Path

from tasks.sandbox.limits import SandboxUnavailable

USERS_PER_PROCESS = 64
# The first is far above what distributions hand out. The second is for root in a container without those ids: between
# people's accounts and the numbers that systemd gives away.
WANTED = (range(1_900_000_000, 1_900_000_000 + 3_000_000 * USERS_PER_PROCESS), range(32_768, 49_152))
CAPABILITIES = (0, 6, 7, 18)  # CAP_CHOWN, CAP_SETGID, CAP_SETUID, CAP_SYS_CHROOT


def host_users(process: Path = Path("/proc/self")) -> range:
    """The ids that boxes may take turns with; empty where this process cannot give up its own id for another.

    Only root can, with its capabilities, and in a user namespace only for ids that are mapped there (`unshare -r` maps
    root alone). Without own ids a box has its caller's id on the host, and uid 1000 inside its user namespace.
    """
    if os.geteuid() != 0 or not _may_switch(process):
        return range(0)
    maps = [_mapped(process / name) for name in ("uid_map", "gid_map")]
    fitting = (ids for ids in WANTED if all(any(_holds(part, ids) for part in parts) for parts in maps))
    return next(fitting, range(0))


def box_user(users: range, number: int) -> int | None:
    """The id of a factory's box `number`; None for its caller's own."""
    return users[(os.getpid() * USERS_PER_PROCESS + number % USERS_PER_PROCESS) % len(users)] if users else None


def user_switch(user: int | None) -> list[str]:
    """The start of a command line that gives up root for `user`: coreutils' chroot to where one is already."""
    return [] if user is None else [_chroot(), f"--userspec=+{user}:+{user}", "--groups=", "/"]


def _chroot() -> str:
    found = [path for path in ("/usr/sbin/chroot", "/usr/bin/chroot") if Path(path).exists()]
    if not found:
        raise SandboxUnavailable("The program chroot is missing: install the system package 'coreutils'.")
    return found[0]


def _may_switch(process: Path) -> bool:
    fields = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line)
    held = int(fields.get("CapEff", "0"), 16)
    groups = process / "setgroups"
    allowed = not groups.exists() or groups.read_text().strip() == "allow"
    return allowed and all(held >> number & 1 for number in CAPABILITIES)


def _mapped(file: Path) -> list[range]:
    """The ids of this user namespace that stand for some id outside."""
    lines = [[int(word) for word in line.split()] for line in file.read_text().splitlines()]
    return [range(first, first + count) for first, _, count in lines]


def _holds(part: range, ids: range) -> bool:
    return part.start <= ids.start and ids.stop <= part.stop
