"""One control group per box, on cgroup v1 or v2: memory, number of processes, CPU share.

Files and semantics: the Linux kernel's `admin-guide/cgroup-v1` and `admin-guide/cgroup-v2.rst`. A parent
group per factory is made under the groups this process is in, so limits set from outside keep holding.
"""

import itertools
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.sandbox.limits import Limits, SandboxError, SandboxUnavailable

CONTROLLERS = ("memory", "pids", "cpu")
CPU_PERIOD_MICROSECONDS = 100_000
PREFIX = "longhaul-"
NEEDED = "The sandbox level 'strict' needs writable control groups"
ADVICE = (
    "; where systemd runs, `systemd-run --user --scope -p Delegate=yes make run` has them, and "
    "LONGHAUL_SANDBOX=namespaces asks for boxes without them, whose memory is bounded for each process only"
)
_numbers = itertools.count()


@dataclass(frozen=True)
class ControlGroup:
    """The folders (one for each v1 hierarchy, or one for v2) that hold the processes of one box."""

    folders: tuple[Path, ...]

    def add(self, pid: int) -> None:
        """Move process `pid` in; the processes it starts from then on are in the group too."""
        for folder in self.folders:
            _write(folder / "cgroup.procs", str(pid))

    def remove(self) -> None:
        """Remove the folders once their processes are gone (waits at most two seconds)."""
        for folder in self.folders:
            _remove_folder(folder, deadline=time.monotonic() + 2)


class ControlGroups:
    """Makes control groups with the same limits below one parent folder for each hierarchy."""

    def __init__(self, limits: Limits, process: Path = Path("/proc/self")) -> None:
        self.version, parents = _find_parents(process)
        name = f"{PREFIX}{os.getpid()}-{next(_numbers)}"
        self._parents = tuple(parent / name for parent in dict.fromkeys(parents))
        self._settings = _settings_v2(limits) if self.version == 2 else _settings_v1(limits)
        for parent in dict.fromkeys(parents):
            _sweep(parent)
        try:
            for folder in self._parents:
                folder.mkdir(exist_ok=True)
                if self.version == 2:
                    _write(folder / "cgroup.subtree_control", " ".join(f"+{name}" for name in CONTROLLERS))
        except OSError as error:
            raise SandboxUnavailable(f"{NEEDED}, but {folder} could not be made: {error.strerror}{ADVICE}.") from error

    def create(self, name: str) -> ControlGroup:
        """A group with its limits set and no process in it."""
        group = ControlGroup(tuple(parent / name for parent in self._parents))
        try:
            for folder in group.folders:
                folder.mkdir()
                for file, value in self._settings.items():
                    if (folder / file).exists():
                        _write(folder / file, value)
        except OSError as error:
            group.remove()
            raise SandboxError(f"The control group {group.folders[0]} could not be made: {error}.") from error
        return group

    def close(self) -> None:
        """Remove the parent folders."""
        for folder in self._parents:
            _remove_folder(folder, deadline=time.monotonic() + 2)


def _settings_v1(limits: Limits) -> Mapping[str, str]:
    memory = str(limits.memory_mb << 20)
    return {
        "memory.limit_in_bytes": memory,
        "memory.memsw.limit_in_bytes": memory,  # only there when the kernel accounts swap
        "pids.max": str(limits.processes),
        "cpu.cfs_period_us": str(CPU_PERIOD_MICROSECONDS),
        "cpu.cfs_quota_us": str(CPU_PERIOD_MICROSECONDS),
    }


def _settings_v2(limits: Limits) -> Mapping[str, str]:
    return {
        "memory.max": str(limits.memory_mb << 20),
        "memory.swap.max": "0",
        "pids.max": str(limits.processes),
        "cpu.max": f"{CPU_PERIOD_MICROSECONDS} {CPU_PERIOD_MICROSECONDS}",
    }


def _find_parents(process: Path) -> tuple[int, list[Path]]:
    """The cgroup version and the writable folders below which every controller of CONTROLLERS can be used."""
    mounts, own = _mounts(process), _own_groups(process)
    v1 = [_group_folder(mounts, own, name) for name in CONTROLLERS]
    found = [folder for folder in v1 if folder is not None and os.access(folder, os.W_OK)]
    if len(found) == len(CONTROLLERS):
        return 1, found
    unified = _group_folder(mounts, own, "")
    for folder in [] if unified is None else [unified, unified.parent]:
        if _delegates(folder):
            return 2, [folder]
    missing = [name for name, folder in zip(CONTROLLERS, v1, strict=True) if folder not in found or folder is None]
    raise SandboxUnavailable(
        f"{NEEDED}, but the controllers {', '.join(missing)} can be used neither through cgroup v1 nor through a "
        f"cgroup v2 folder delegated to this user{ADVICE}."
    )


def _delegates(folder: Path) -> bool:
    """Whether children of a cgroup v2 folder get all controllers."""
    control = folder / "cgroup.subtree_control"
    if not (os.access(folder, os.W_OK) and control.exists()):
        return False
    try:
        _write(control, " ".join(f"+{name}" for name in CONTROLLERS))
    except OSError:  # busy (holds processes itself) or not delegated: what counts is what is on already
        return set(CONTROLLERS) <= set(control.read_text().split())
    return True


def _mounts(process: Path) -> dict[str, Path]:
    """Mount point of each v1 controller, and of the unified hierarchy under the name ''."""
    found: dict[str, Path] = {}
    for line in (process / "mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        mount_point, kind, options = Path(left.split(" ")[4]), right.split(" ")[0], right.split(" ")[-1]
        if kind == "cgroup":
            found.update({name: mount_point for name in options.split(",") if name in CONTROLLERS})
        elif kind == "cgroup2":
            found[""] = mount_point
    return found


def _own_groups(process: Path) -> dict[str, str]:
    """The group this process is in, for each v1 controller and for the unified hierarchy ('')."""
    lines = (process / "cgroup").read_text().splitlines()
    fields = [line.split(":", 2) for line in lines]
    return {name: path for _, names, path in fields for name in names.split(",")}


def _group_folder(mounts: Mapping[str, Path], own: Mapping[str, str], name: str) -> Path | None:
    """The folder of this process's own group; the mount point where a container hides the path above it."""
    if name not in mounts or name not in own:
        return None
    folder = mounts[name] / own[name].lstrip("/")
    return folder if folder.is_dir() else mounts[name]


def _sweep(parent: Path) -> None:
    """Remove what factories of processes that no longer live have left."""
    for folder in parent.glob(f"{PREFIX}*-*"):
        pid = folder.name.removeprefix(PREFIX).split("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            for child in [*folder.glob("*/"), folder]:
                _remove_folder(child, deadline=0)


def _remove_folder(folder: Path, deadline: float) -> None:
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:  # busy: the last process is still on its way out
            if time.monotonic() > deadline:
                return
            time.sleep(0.0005)
        else:
            return


def _write(file: Path, text: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
