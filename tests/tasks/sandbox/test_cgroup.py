import os
from pathlib import Path

import pytest

from tasks.sandbox import Limits, SandboxUnavailable
from tasks.sandbox.cgroup import ControlGroups

CONTROLLERS = "cpu memory pids"


def machine(root: Path, mounts: list[tuple[str, str, str]], groups: list[str]) -> Path:
    """A folder that reads like /proc/self: `mounts` are (mount point, type, options)."""
    process = root / "proc"
    process.mkdir()
    lines = [f"1 2 0:3 / {root / point} rw - {kind} {kind} rw,{options}" for point, kind, options in mounts]
    (process / "mountinfo").write_text("\n".join(lines) + "\n")
    (process / "cgroup").write_text("\n".join(groups) + "\n")
    return process


def unified(root: Path, enabled: str = CONTROLLERS) -> Path:
    folder = root / "cg" / "user"
    folder.mkdir(parents=True)
    (folder / "cgroup.subtree_control").write_text(enabled)
    return folder


def test_version_2_is_used_where_the_group_is_delegated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = unified(tmp_path)
    make = Path.mkdir

    def make_like_the_kernel(path: Path, *arguments: object, **options: object) -> None:
        make(path, exist_ok=True)
        for name in ("memory.max", "memory.swap.max", "pids.max", "cpu.max", "cgroup.procs", "cgroup.subtree_control"):
            (path / name).touch()

    monkeypatch.setattr(Path, "mkdir", make_like_the_kernel)
    groups = ControlGroups(Limits(memory_mb=1, processes=7), process_v2(tmp_path))
    group = groups.create("box-0")
    group.add(123)
    inside = group.folders[0]
    assert groups.version == 2
    assert inside.parent.parent == folder
    contents = {name: (inside / name).read_text() for name in ("memory.max", "pids.max", "cpu.max", "cgroup.procs")}
    assert contents == {"memory.max": "1048576", "pids.max": "7", "cpu.max": "100000 100000", "cgroup.procs": "123"}


def process_v2(root: Path) -> Path:
    return machine(root, [("cg", "cgroup2", "nsdelegate")], ["0::/user"])


def test_no_controllers_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(SandboxUnavailable, match=r"needs writable control groups.*memory, pids, cpu"):
        ControlGroups(Limits(), machine(tmp_path, [("x", "tmpfs", "mode=755")], ["0::/"]))


def test_a_missing_v1_controller_is_named(tmp_path: Path) -> None:
    for name in ("memory", "cpu"):
        (tmp_path / name).mkdir()
    mounts = [(name, "cgroup", name) for name in ("memory", "cpu")]
    process = machine(tmp_path, mounts, ["1:memory:/", "2:cpu:/"])
    with pytest.raises(SandboxUnavailable, match="controllers pids can"):
        ControlGroups(Limits(), process)


def test_version_1_is_used_when_all_controllers_are_there(tmp_path: Path) -> None:
    mounts = [(name, "cgroup", name) for name in CONTROLLERS.split()]
    for name in CONTROLLERS.split():
        (tmp_path / name / "own").mkdir(parents=True)
    process = machine(tmp_path, mounts, [f"{i}:{name}:/own" for i, name in enumerate(CONTROLLERS.split())])
    groups = ControlGroups(Limits(), process)
    assert groups.version == 1
    group = groups.create("box-0")
    assert {folder.parent.parent for folder in group.folders} == {tmp_path / n / "own" for n in CONTROLLERS.split()}
    group.remove()
    groups.close()
    assert not list(tmp_path.glob("*/own/*"))


def test_groups_left_by_dead_processes_are_swept(tmp_path: Path) -> None:
    for name in CONTROLLERS.split():
        (tmp_path / name / "longhaul-4194304999-0" / "box-3").mkdir(parents=True)
        (tmp_path / name / f"longhaul-{os.getpid()}-99999").mkdir()
    mounts = [(name, "cgroup", name) for name in CONTROLLERS.split()]
    process = machine(tmp_path, mounts, [f"{i}:{name}:/" for i, name in enumerate(CONTROLLERS.split())])
    ControlGroups(Limits(), process).close()
    assert {path.name for path in tmp_path.glob("*/*")} == {f"longhaul-{os.getpid()}-99999", "mountinfo", "cgroup"}
