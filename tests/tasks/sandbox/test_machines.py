"""Machines unlike the one this was built on: other users, masks, bounds, folders and bubblewraps."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.bubblewrap import advice
from tasks.sandbox import Limits, SandboxError, SandboxUnavailable, open_sandbox
from tasks.sandbox.users import USERS_PER_PROCESS, WANTED, box_user, host_users

LOOK = """
from tasks.sandbox import SandboxError, SandboxUnavailable, open_sandbox
try:
    with open_sandbox() as factory, factory.box({"deep/a": "x"}, {"t": "y"}, report=True) as box:
        print(factory.isolation)
        print(box.run("cat /etc/passwd deep/a /tests/t; mkdir b; echo >c; stat -c %a . deep deep/a b c /tmp").output)
except (SandboxError, SandboxUnavailable) as error:
    print(error)
"""
SEEN = "agent:x:1000:1000:agent:/work:/bin/bash\nxy755\n755\n644\n755\n644\n1777\n"
root = pytest.mark.skipif(os.geteuid() != 0, reason="what only root can try")


def look(*command: str, **variables: str) -> tuple[str, str]:
    """(isolation or the sentence that refuses, what a box saw) of a program started by `command`."""
    words = [*command, sys.executable, "-c", LOOK]
    done = subprocess.run(words, env=os.environ | variables, capture_output=True, text=True, check=True)
    first, _, rest = done.stdout.partition("\n")
    return first, rest.removesuffix("\n")


@root
def test_root_in_a_user_namespace_is_its_caller() -> None:
    """`unshare -r` maps root alone: there is no other user to become, and the record says so."""
    isolation, seen = look("unshare", "-Ur")
    assert "caller's uid mapped" in isolation
    assert seen == SEEN


@root
def test_root_with_the_ids_of_a_container_has_boxes_with_ids_of_their_own() -> None:
    words = ["unshare", "-U", "sh", "-c", 'read go; exec "$@"', "sh", sys.executable, "-c", LOOK]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        while os.readlink(f"/proc/{process.pid}/ns/user") == os.readlink("/proc/self/ns/user"):
            pass
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{process.pid}/{name}").write_text("0 0 1\n1 100000 65535\n")
        output, _ = process.communicate("\n")
    isolation, _, seen = output.partition("\n")
    assert "own uid" in isolation
    assert seen == SEEN + "\n"


@root
@pytest.mark.parametrize("dropped", ["setuid", "setgid", "chown", "sys_chroot"])
def test_root_without_its_capabilities_is_its_caller(dropped: str) -> None:
    isolation, seen = look("setpriv", "--bounding-set", f"-{dropped}", "--inh-caps", f"-{dropped}")
    assert "caller's uid mapped" in isolation
    assert seen == SEEN


@root
def test_boxes_that_nothing_bounds_in_processes_are_refused() -> None:
    """The kernel's bound on a user's processes is none for root, nor for who stands for it in a namespace."""
    said, _ = look("unshare", "-Ur", LONGHAUL_SANDBOX="namespaces")
    assert "needs a bound on processes, which this machine did not give" in said


def test_ids_are_looked_for_in_both_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (tmp_path / "status").write_text("Name:\tpython\nCapEff:\t000001ffffffffff\n")
    whole, container, alone = "0 0 4294967295\n", "0 1000 1\n1 100000 65536\n", "0 1000 1\n"
    for users, groups, ids in [
        (whole, whole, WANTED[0]), (container, container, WANTED[1]), (whole, container, WANTED[1]),
        (alone, alone, range(0)), (container, alone, range(0)),
    ]:  # fmt: skip
        (tmp_path / "uid_map").write_text(users)
        (tmp_path / "gid_map").write_text(groups)
        assert host_users(tmp_path) == ids
    assert box_user(range(0), 3) is None
    assert len({box_user(WANTED[1], number) for number in range(USERS_PER_PROCESS)}) == USERS_PER_PROCESS


@pytest.mark.parametrize("mask", ["000", "022", "077", "777"])
def test_the_mask_of_the_shell_that_started_us_is_no_part_of_a_box(mask: str) -> None:
    _, seen = look("sh", "-c", f'umask {mask}; exec "$@"', "sh")
    assert seen == SEEN


def test_boxes_need_no_folder_for_temporary_files(tmp_path: Path) -> None:
    closed = tmp_path / "closed"  # to the boxes' own user
    closed.mkdir(mode=0o700)
    for folder in (closed, tmp_path / "missing", Path("/proc")):
        assert look(TMPDIR=str(folder))[1] == SEEN


@pytest.mark.parametrize("files", [24, 32, 64, 300])
def test_boxes_open_under_a_bound_on_open_files(files: int) -> None:
    assert look("prlimit", f"--nofile={files}")[1] == SEEN


@pytest.mark.parametrize(
    ("bound", "sentence"),
    [
        ("--nofile=12", r"Too many open files; `ulimit -n` shows how many are allowed"),
        ("--fsize=10", r"could not open a box's pipes and files: File too large"),
        ("--stack=65536", r"."),
    ],
)
def test_bounds_that_are_too_small_are_one_sentence(bound: str, sentence: str) -> None:
    words = ["prlimit", bound, sys.executable, "-c", LOOK]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert re.search(sentence, done.stdout + str(done.returncode))


def test_descriptors_beyond_a_thousand_work() -> None:
    program = "import os; held = [os.dup(0) for _ in range(1100)]\n" + LOOK
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.endswith(SEEN + "\n")


def test_a_box_that_cannot_open_its_files_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(24, "Too many open files")

    with open_sandbox() as factory:
        factory.box({}).close()
        before = len(os.listdir("/proc/self/fd"))
        monkeypatch.setattr(os, "memfd_create", refuse)
        with pytest.raises(SandboxError, match="Too many open files"):
            factory.box({"a": "b"}, report=True)
        assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for a bwrap of our own, first in the path, that the boxes' user can read."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        yield Path(folder)


def write_program(folder: Path, text: str) -> None:
    (folder / "bwrap").write_text(text)
    (folder / "bwrap").chmod(0o755)


def test_a_bubblewrap_that_cannot_bound_a_disk_has_its_disks_mounted_before_it(programs: Path) -> None:
    """That of Ubuntu 22.04 is 0.6.1, and knows no --size."""
    write_program(
        programs,
        '#!/bin/bash\n[ "$1" = --version ] && exec echo bubblewrap 0.6.1\n'
        'for word; do [ "$word" = -- ] && break; [ "$word" = --size ] && exit 3; done\nexec /usr/bin/bwrap "$@"\n',
    )
    with open_sandbox(limits=Limits(disk_mb=4)) as factory, factory.box({"a": "x"}) as box:
        for folder in ("/work", "/tmp"):
            assert box.run(f"head -c 3000000 /dev/zero >{folder}/one").exit_code == 0
            assert box.run(f"head -c 3000000 /dev/zero >{folder}/two").exit_code != 0
        assert box.run("cat a; stat -c %a . /tmp; ls -d /sys").output.startswith("x755\n1777\nls: cannot access")
    assert look()[1] == SEEN


def test_a_bubblewrap_that_is_none_or_too_old_is_one_sentence(programs: Path) -> None:
    for text, sentence in [
        (
            "#!/bin/sh\necho bubblewrap 0.4.0\n",
            r"bwrap is bubblewrap 0\.4\.0, and the sandbox needs .* 0\.5\.0 or later",
        ),
        ("#!/bin/sh\nexit 1\n", r"bwrap is no bubblewrap"),
        ("no program\n", r"bwrap does not run: Exec format error"),
    ]:
        write_program(programs, text)
        with pytest.raises(SandboxUnavailable, match=sentence):
            open_sandbox()


@root
def test_user_namespaces_that_are_switched_off_are_named_with_their_switch() -> None:
    forbid = 'echo 0 >/proc/sys/user/max_user_namespaces; exec "$@"'  # in a namespace of our own, not on this machine
    said, _ = look("unshare", "-Ur", "sh", "-c", forbid, "sh")
    assert said.endswith(
        "user namespaces are switched off, `sysctl -w user.max_user_namespaces=10000` as root allows them."
    )


@pytest.mark.parametrize(
    ("said", "switches", "words"),
    [
        ("bwrap: setting up uid map: Permission denied", {"apparmor_restrict_unprivileged_userns": "1"}, "apparmor"),
        ("bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted",
         {"apparmor_restrict_unprivileged_userns": "1", "unprivileged_userns_clone": "1"}, "apparmor"),
        ("bwrap: No permissions to create new namespace", {"unprivileged_userns_clone": "0"}, "userns_clone=1"),
        ("bwrap: No permissions to create new namespace", {}, "--security-opt seccomp=unconfined"),
        ("bwrap: Creating new namespace failed: Resource temporarily unavailable", {}, "ulimit -u"),
        ("bash: cannot modify limit: Operation not permitted", {"unprivileged_userns_clone": "0"}, None),
        ("bwrap: Can't find source path /usr: No such file or directory", {"unprivileged_userns_clone": "0"}, None),
    ],
)  # fmt: skip
def test_advice(said: str, switches: dict[str, str], words: str | None, tmp_path: Path) -> None:
    (tmp_path / "kernel").mkdir()
    for name, value in switches.items():
        (tmp_path / "kernel" / name).write_text(f"{value}\n")
    found = advice(said, tmp_path)
    assert words in found if words else found == ""
