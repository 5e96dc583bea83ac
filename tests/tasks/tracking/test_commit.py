"""Which commit a run says it was made by."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.tracking import commit
from tasks.tracking.commit import git_commit, without_commit


def git(*arguments: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "protocol.file.allow=always")
    done = subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one commit, as the current folder."""
    folder = tmp_path / "caf\u00e9 one"
    (folder / "metrics").mkdir(parents=True)
    monkeypatch.chdir(folder)
    for name in ("metrics/pretrain.json", "params.yaml", "code.py"):
        Path(name).write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    return folder


def test_a_changed_file_makes_the_commit_dirty_but_what_a_run_writes_or_hashes_does_not(repository: Path) -> None:
    for name in ("metrics/pretrain.json", "params.yaml"):
        Path(name).write_text("2")
    assert git_commit() == git("rev-parse", "HEAD")
    assert without_commit() is None
    Path("code.py").write_text("2")
    assert git_commit().endswith("-dirty")


def test_unpacked_inside_another_repository_its_commit_is_not_ours(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = repository / "longhaul"
    inner.mkdir()
    monkeypatch.chdir(inner)
    assert git_commit() == "unknown"
    assert "is no git repository of its own" in (without_commit() or "")
    (inner / ".git").mkdir()  # an empty one, which git walks past
    assert git_commit() == "unknown"
    assert "git tells no commit" in (without_commit() or "")


def test_a_worktree_and_a_submodule_are_repositories_of_their_own(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = git("rev-parse", "HEAD")
    git("worktree", "add", str(tmp_path / "tree"))
    outer = tmp_path / "outer"
    outer.mkdir()
    monkeypatch.chdir(outer)
    git("init")
    git("submodule", "add", str(repository), "inner")
    for place in (tmp_path / "tree", outer / "inner"):
        monkeypatch.chdir(place)
        assert git_commit() == head


def test_without_git_or_a_commit_it_is_unknown(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        assert git_commit() == "unknown"
    shutil.rmtree(".git")
    assert git_commit() == "unknown"
    git("init")
    assert git_commit() == "unknown"


def test_variables_of_a_git_that_started_us_name_no_other_repository(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git sets them for its hooks, and a shell may keep them."""
    head = git("rev-parse", "HEAD")
    other = tmp_path / "other"
    other.mkdir()
    git("init", str(other))
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert git_commit() == head


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_the_repository_of_another_owner_is_read(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = git("rev-parse", "HEAD")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    for path in [repository, *repository.rglob("*")]:
        os.chown(path, 4321, 4321)
    with pytest.raises(subprocess.CalledProcessError):
        git("rev-parse", "HEAD")
    assert git_commit() == head


def test_a_git_that_refuses_another_owner_is_one_sentence(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before version 2.37 git takes safe.directory from a file alone."""
    refusal = "fatal: detected dubious ownership in repository"
    monkeypatch.setattr(commit, "_git", lambda *_: ("", refusal))
    commit._say_refused.cache_clear()
    assert [git_commit(), git_commit()] == ["unknown"] * 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"`git config --global --add safe.directory '{repository}'` lets git read it." in said


def test_a_folder_with_letters_that_the_locale_lacks_works(repository: Path) -> None:
    program = "from tasks.tracking.commit import git_commit; print(git_commit())"
    variables = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | variables, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == git("rev-parse", "HEAD")
