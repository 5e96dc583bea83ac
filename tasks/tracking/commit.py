"""The git commit that a run is made by: of this folder's own repository, or `unknown`."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

UNKNOWN = "unknown"
OURS = ("metrics", "dvc.lock", "params.yaml")  # what a run writes or hashes itself
DUBIOUS = ("dubious ownership", "unsafe repository")  # git's words, which differ by version


def git_commit() -> str:
    """The commit checked out, with `-dirty` where tracked files differ; `unknown` outside a repository of our own.

    What a run writes or hashes itself does not count: metrics, dvc.lock and params.yaml. A repository counts whose top
    is the current folder (a worktree's or a submodule's too), not one that this folder was unpacked into. One that
    belongs to somebody else is read all the same; where git cannot be made to, one sentence on stderr says so.
    """
    if not Path(".git").exists():  # a folder, or the file of a worktree or submodule
        return UNKNOWN
    top, refusal = _git("rev-parse", "--show-toplevel")
    if any(words in refusal for words in DUBIOUS):
        _say_refused()
    if not top or not _is_here(top):
        return UNKNOWN
    head, _ = _git("rev-parse", "--verify", "--quiet", "HEAD")
    if not head:
        return UNKNOWN
    others = [f":(exclude,top){path}" for path in OURS]
    changed, refusal = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", *others)
    return f"{head}-dirty" if changed or refusal else head


def without_commit() -> str | None:
    """Why results of this folder will name no commit, as one sentence for the start of a run; None where they do."""
    if git_commit() != UNKNOWN:
        return None
    if not Path(".git").exists():
        return "This folder is no git repository of its own, so results are recorded with the commit 'unknown'."
    return "git tells no commit of this folder, so results are recorded with the commit 'unknown'."


def _is_here(top: str) -> bool:
    try:
        return os.path.samefile(top, os.curdir)
    except OSError:
        return False


def _git(*arguments: str) -> tuple[str, str]:
    """(what git printed, why it failed). A leftover GIT_DIR or GIT_WORK_TREE names no other repository.

    This folder's own code runs already, so its repository is trusted, whoever owns it.
    """
    trusted = ("-c", f"safe.directory={os.getcwd()}")
    left = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_NAMESPACE", "GIT_PREFIX")
    environment = {name: value for name, value in os.environ.items() if name not in left} | {"LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", *trusted, *arguments], env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except OSError as error:  # no git on this machine
        return "", str(error)
    said = os.fsdecode(done.stdout).removesuffix("\n")
    return (said, "") if done.returncode == 0 else ("", os.fsdecode(done.stderr) or "failed")


@lru_cache
def _say_refused() -> None:
    folder = os.getcwd()
    print(
        f"The commit of {folder} is recorded as 'unknown', because the folder belongs to another user: "
        f"`git config --global --add safe.directory {shlex.quote(folder)}` lets git read it.",
        file=sys.stderr,
        flush=True,
    )
