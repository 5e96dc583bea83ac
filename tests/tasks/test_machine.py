"""What is asked of a machine before a run: each shortage is one sentence, and what can be mended is."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.errors import MachineError
from tasks.machine import check_machine
from tasks.tracking.metrics import process_seconds
from tests.tasks.small_disk import small_disk

CHECK = """
import os, resource, sys, tempfile
from tasks.errors import MachineError
from tasks.machine import check_machine
try:
    check_machine()
    print("good", os.environ.get("TMPDIR"), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
except MachineError as error:
    print(error)
"""
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")


def check(folder: Path, *command: str, **variables: str) -> str:
    """What `check_machine` says, in a program that `command` starts in the folder."""
    words = [*command, sys.executable, "-c", CHECK]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | variables
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert not done.stderr
    said = done.stdout.strip()
    assert "\n" not in said
    assert said.startswith("good") or said.endswith(".")
    return said


def test_a_good_machine_costs_milliseconds(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        check_machine(tmp_path)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05
    assert [path.name for path in tmp_path.rglob("*")] == ["metrics"]


def test_soft_limits_are_raised(tmp_path: Path) -> None:
    assert check(tmp_path, "prlimit", "--nofile=64:4096", "--fsize=100:unlimited").split()[-1] == "4096"


def test_too_few_descriptors(tmp_path: Path) -> None:
    said = check(tmp_path, "prlimit", "--nofile=32")
    assert said.startswith("This shell lets a program open 32 files at once, and a run needs")
    assert "`ulimit -n`" in said


def test_too_small_files(tmp_path: Path) -> None:
    said = check(tmp_path, "prlimit", "--fsize=4096")
    assert said.startswith("This shell lets a program write files of at most 4096 bytes")
    assert "`ulimit -f`" in said


@root
def test_too_few_processes(tmp_path: Path) -> None:
    """Of a user who is not root, whom the kernel's bound does not hold; what is imported is imported before."""
    head, _, rest = CHECK.partition("try:")
    bound = f"{head}os.chdir('/tmp'); resource.setrlimit(resource.RLIMIT_NPROC, (3, 3)); os.setuid(4242)\ntry:{rest}"
    done = subprocess.run([sys.executable, "-c", bound], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("This user can start only 2 more processes and threads"), done.stderr
    assert "`ulimit -u`" in done.stdout


def test_a_temporary_folder_that_cannot_be_used_is_replaced_for_the_programs_started_too(tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.mkdir()
    assert check(tmp_path, TMPDIR=str(good)).split()[1] == str(good)
    assert check(tmp_path, TMPDIR=str(tmp_path / "missing")).split()[1] == "/tmp"


def test_no_temporary_folder_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", none)
    with pytest.raises(MachineError, match="`export TMPDIR=<folder>`"):
        check_machine(tmp_path)


@root
@pytest.mark.parametrize("name", ["", "metrics", "checkpoints", ".longhaul/state"])
def test_a_folder_that_is_read_only_is_named_before_the_work(name: str, tmp_path: Path) -> None:
    target = tmp_path / name
    target.mkdir(parents=True, exist_ok=True)
    mount = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && cd "$1" && cd "$2" && shift 2 && exec "$@"'
    said = check(tmp_path, "unshare", "-m", "sh", "-c", mount, "sh", str(target), str(tmp_path))
    assert said.startswith(f"The folder {target} cannot be written (Read-only file system)")


def test_links_that_lead_nowhere_and_files_in_a_folders_place_are_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").symlink_to("/not/mounted")
    with pytest.raises(MachineError, match=r"/checkpoints cannot be written \(No such file or directory\)"):
        check_machine(tmp_path)
    (tmp_path / "checkpoints").unlink()
    (tmp_path / "data").write_text("")
    with pytest.raises(MachineError, match=r"/data cannot be written \(Not a directory\)"):
        check_machine(tmp_path)


@root
def test_shared_memory_that_is_full(tmp_path: Path) -> None:
    fill = 'mount -t tmpfs -o size=8k tmpfs /dev/shm; exec "$@"'
    said = check(tmp_path, "unshare", "-m", "sh", "-c", fill, "sh")
    assert said.startswith("The folder /dev/shm cannot be written (No space left on device)")


def test_too_little_space_for_what_is_to_come(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        check_machine(disk, 1 << 20)
        with pytest.raises(MachineError, match=r"has 0\.0 GB free, and a run writes about 2\.0 GB"):
            check_machine(disk, 2 * 10**9)


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_no_file_takes_the_place_of_a_closed_stream(closed: tuple[int, ...], tmp_path: Path) -> None:
    program = (
        "import os, subprocess; from tasks.machine import check_machine; check_machine();"
        "file = open('result.txt', 'w'); assert file.fileno() > 2; print('stray', flush=True);"
        "subprocess.run('echo stray; echo stray >&2', shell=True)"
    )
    streams = " ".join("<&-" if number == 0 else f"{number}>&-" for number in closed)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    words = ["bash", "-c", f'exec "$@" {streams}', "bash", sys.executable, "-c", program]
    subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert (tmp_path / "result.txt").read_text() == ""


def test_seconds_do_not_follow_a_clock_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    before = process_seconds()
    assert before > 0
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert before <= process_seconds() < before + 60
