"""Set-up on machines that lack something: one sentence that names it, and nothing half-made."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOBODY = 65534
TOOLS = (
    "bash", "cat", "cut", "dirname", "env", "grep", "id", "mktemp", "readlink", "rm", "sha256sum", "sleep", "printf"
)  # fmt: skip


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What set-up reads of the project, in a folder that anybody may write to."""
    place = tmp_path / "clone"
    shutil.copytree(ROOT / "infra", place / "infra")
    for name in ("constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, place)
    for folder in (place, *tmp_path.parents[:3], tmp_path):
        folder.chmod(0o777 if folder == place else folder.stat().st_mode | 0o055)
    return place


def programs(folder: Path, *more: str) -> str:
    """A PATH of nothing but these programs."""
    folder.mkdir(exist_ok=True)
    for name in (*TOOLS, *more):
        found = shutil.which(name)
        if found and not (folder / name).exists():
            (folder / name).symlink_to(os.path.realpath(found))
    return str(folder)


def set_up(clone: Path, user: int | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [clone / "infra" / "setup.sh"], capture_output=True, text=True, user=user, check=False, timeout=60,
        env={"PATH": os.environ["PATH"], "HOME": str(clone), **environment},
    )  # fmt: skip


def last(done: subprocess.CompletedProcess[str]) -> str:
    return done.stderr.splitlines()[-1]


def test_a_machine_without_python_is_told_which_and_how_to_name_it(clone: Path, tmp_path: Path) -> None:
    done = set_up(clone, user=NOBODY if os.geteuid() == 0 else None, PATH=programs(tmp_path / "bin"))
    assert done.returncode == 1
    assert last(done).startswith("[setup] Python is needed in one of the versions 3.11 3.12 3.13; install one")
    assert not (clone / ".venv").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_somebody_without_root_is_told_the_packages(clone: Path, tmp_path: Path) -> None:
    system = next((p for p in ("/usr/bin/python3", "/usr/local/bin/python3") if Path(p).exists()), None)
    if system is None:
        pytest.skip("no Python that every user may read")
    path = programs(tmp_path / "bin", "apt-get")
    (tmp_path / "bin" / "python3").symlink_to(os.path.realpath(system))
    done = set_up(clone, user=NOBODY, PATH=path)
    assert done.returncode == 1
    assert "only root can install them: bubblewrap g++ git" in last(done)
    assert "sudo apt-get install bubblewrap g++ git" in last(done)
    assert not (clone / ".venv").exists()


def test_a_python_that_is_named_and_will_not_do_is_refused(clone: Path) -> None:
    done = set_up(clone, PYTHON="/bin/false")
    assert (done.returncode, last(done)) == (1, "[setup] PYTHON is /bin/false, which is none of Python 3.11 3.12 3.13.")


def test_the_environment_of_another_folder_is_not_touched(clone: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (clone / ".venv").symlink_to(other)
    done = set_up(clone)
    assert done.returncode == 1
    assert f".venv is a link to {other}: another folder's environment is not touched." in last(done)
    assert not list(other.iterdir())


def test_what_is_there_is_skipped_without_a_word(clone: Path) -> None:
    if not shutil.which("bwrap"):
        pytest.skip("bubblewrap is not installed")
    lines = (clone / "infra" / "setup.sh").read_text().splitlines()
    named = "\n".join(line for line in lines if line.startswith(("venv=", "here=", "stamp=")))
    (clone / ".venv").mkdir()
    subprocess.run(["bash", "-c", f'{named}\ntouch "$stamp"'], cwd=clone, check=True)
    done = set_up(clone)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (clone / "constraints.txt").write_text("torch==0.1\n")
    assert set_up(clone, PYTHON="/bin/false").returncode == 1, "another lock is set up anew"
