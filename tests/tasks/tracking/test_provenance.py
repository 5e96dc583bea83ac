"""Which commit a run says it was made by."""

import subprocess
from pathlib import Path

import pytest

from tasks.tracking.provenance import git_commit


def git(*arguments: str) -> None:
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)


def test_a_changed_file_makes_the_commit_dirty_but_what_a_run_writes_or_hashes_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert git_commit() == "unknown"
    git("init")
    Path("metrics").mkdir()
    for name in ("metrics/pretrain.json", "params.yaml", "code.py"):
        Path(name).write_text("1")
    git("add", ".")
    git("commit", "-m", "first")
    for name in ("metrics/pretrain.json", "params.yaml"):
        Path(name).write_text("2")
    assert len(git_commit()) == 40
    Path("code.py").write_text("2")
    assert git_commit().endswith("-dirty")
