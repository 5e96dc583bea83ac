"""DVC in a folder as it was unpacked."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.env import DVC_SITE_CACHE_DIR

from flows import repository
from flows.repository import settle

STAGE = "stages:\n  copy:\n    cmd: cp a b\n    deps: [a]\n    outs: [b]\n"


@pytest.fixture
def unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a DVC stage and without git, inside a git repository of somebody else's."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    folder = tmp_path / "longhaul"
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    (folder / "dvc.yaml").write_text(STAGE)
    (folder / "a").write_text("x")
    monkeypatch.chdir(folder)
    monkeypatch.delenv(DVC_SITE_CACHE_DIR, raising=False)
    return folder


def dvc(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "dvc", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_folder_without_git_reproduces(unpacked: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / ".git")
    refused = subprocess.run([sys.executable, "-m", "dvc", "status"], capture_output=True, text=True, check=False)
    assert "is not a git repository" in refused.stderr
    settle()
    dvc("repro")
    assert Path("b").read_text() == "x"
    assert "up to date" in dvc("status")


def test_another_repository_is_left_alone_and_one_of_our_own_is_used(unpacked: Path) -> None:
    local = unpacked / ".dvc" / "config.local"
    settle()
    assert "no_scm = true" in local.read_text().lower()
    before = local.stat().st_mtime_ns
    settle()
    assert local.stat().st_mtime_ns == before
    with local.open("a") as file:
        file.write("['remote \"mine\"']\n    url = /somewhere\n")
    subprocess.run(["git", "init", "-q"], check=True)
    settle()
    assert "no_scm" not in local.read_text()
    assert "/somewhere" in local.read_text()


def test_in_a_repository_nothing_is_written(unpacked: Path) -> None:
    subprocess.run(["git", "init", "-q"], check=True)
    settle()
    assert not (unpacked / ".dvc" / "config.local").exists()


def test_a_cache_folder_that_cannot_be_written_is_one_of_ours(unpacked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle()
    assert DVC_SITE_CACHE_DIR not in os.environ
    monkeypatch.setenv(DVC_SITE_CACHE_DIR, "")  # so that it is put back
    monkeypatch.setattr(repository, "_is_writable", lambda folder: False)
    settle()
    assert os.environ[DVC_SITE_CACHE_DIR] == str(unpacked / ".longhaul/dvc")
