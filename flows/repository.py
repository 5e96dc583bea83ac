"""Lets DVC work in a folder as it was unpacked: without git, and where its own cache folder cannot be written.

`python -m flows.repository` does so for a `dvc` that is typed by hand.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from dvc.config import Config
from dvc.dirs import site_cache_dir
from dvc.env import DVC_SITE_CACHE_DIR

from tasks.cli import Parser, program

CACHE = Path(".longhaul/dvc")  # of hashes that DVC knows already; lost, they are computed again


def settle(folder: Path = Path()) -> None:
    """Tells DVC, in .dvc/config.local, whether there is a git repository, and a cache folder that can be written.

    A folder without .git (a ZIP) is no repository to DVC, which refuses it; one that gets a .git later is one again.
    Inside another repository DVC would take that one.
    """
    _tell_scm(folder)
    if not _is_writable(Path(site_cache_dir())):
        os.environ[DVC_SITE_CACHE_DIR] = str((folder / CACHE).resolve())


def _tell_scm(folder: Path) -> None:
    wanted = not (folder / ".git").exists()
    local = Config(dvc_dir=str(folder / ".dvc"), validate=False)
    if bool(local.load_one("local").get("core", {}).get("no_scm")) == wanted:
        return
    with local.edit("local", validate=False) as settings:
        core = settings.setdefault("core", {})
        core.pop("no_scm", None)
        if wanted:
            core["no_scm"] = True


def _is_writable(folder: Path) -> bool:
    """Of the nearest folder above that exists, where it does not."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return os.access(there, os.W_OK | os.X_OK)


@program("repository")
def main(argv: Sequence[str] | None = None) -> int:
    """`python -m flows.repository`."""
    Parser(prog="python -m flows.repository").parse_args(argv)
    settle()
    return 0


if __name__ == "__main__":
    sys.exit(main())
