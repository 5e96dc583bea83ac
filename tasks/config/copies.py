"""A run's own copy of `params.yaml`: `.longhaul/run/<process that began the run>.yaml`, written once, read-only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.config import processes
from tasks.config.errors import ConfigError
from tasks.config.reading import read_mapping, read_text
from tasks.errors import MachineError

FOLDER = "run"


def make(home: Path, run: str, params: Path) -> Path:
    """Copies the file as it is now, in one step. Copies of runs that have ended go away."""
    text = read_text(params)
    copy = home / FOLDER / f"{run}.yaml"
    draft = copy.with_suffix(f".{os.getpid()}.tmp")
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        _forget_ended(copy.parent)
        draft.write_text(text, encoding="utf-8")
        draft.chmod(0o444)
        draft.replace(copy)
    except OSError as error:
        raise MachineError(f"The parameters cannot be copied into {copy.parent}: {error.strerror}.") from error
    return copy


def find(home: Path, run: str) -> Path | None:
    """The run's copy, if it was made."""
    copy = home / FOLDER / f"{run}.yaml"
    return copy if copy.is_file() else None


def forget(home: Path, run: str) -> None:
    """Removes the copy of a run that has ended, and the folder of copies where it was the last."""
    (home / FOLDER / f"{run}.yaml").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty, or not there
        (home / FOLDER).rmdir()


def refuse_change(copy: Path, params: Path, sections: Sequence[str] = ()) -> None:
    """Raises ConfigError where the file says something else than the copy, in these sections or in any."""
    before, now = (read_mapping(read_text(path), str(path)) for path in (copy, params))
    if sections:
        before, now = ({key: values.get(key) for key in sections} for values in (before, now))
    key = _first_difference(before, now)
    if key is not None:
        process = copy.stem.partition("-")[0]
        raise ConfigError(
            f"The key {key!r} in {params.name} was changed while `dvc repro`, process {process}, is running, which "
            "began with another value; start it again to run with the file as it is now."
        )


def _first_difference(before: Any, now: Any, key: str = "") -> str | None:
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        return None if before == now and type(before) is type(now) else key
    for name in [*before, *(name for name in now if name not in before)]:
        inner = f"{key}.{name}" if key else name
        if name not in before or name not in now:
            return inner
        found = _first_difference(before[name], now[name], inner)
        if found is not None:
            return found
    return None


def _forget_ended(folder: Path) -> None:
    for old in folder.glob("*.yaml"):
        if not processes.lives(old.stem):
            with contextlib.suppress(OSError):
                old.unlink()
