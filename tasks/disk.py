"""What a stage says of a full disk, and folders that are replaced whole or not at all."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NUMBERS = (errno.ENOSPC, errno.EDQUOT)
_WORDS = ("no space left on device", "disk is full", "disk quota exceeded")  # in messages that carry no number


def is_full(error: BaseException | None) -> bool:
    """Whether this error, or one that it came from, is the operating system's or a library's word for a full disk."""
    if error is None:
        return False
    said = getattr(error, "errno", None) in _NUMBERS or _says_so(error)
    return said or is_full(error.__cause__ or error.__context__)


def _says_so(error: BaseException) -> bool:
    """A ValueError repeats what a person wrote, which may be any words."""
    return not isinstance(error, ValueError) and any(words in str(error).lower() for words in _WORDS)


def sentence(error: BaseException, stage: str, folder: Path | None = None) -> str:
    """What a stage's `main` prints of an error: its own message, or for a full disk the folder that it is below.

    folder: where the stage writes; None takes the folder of the file that the error names, else the current one.
    """
    if not is_full(error):
        return str(error)
    return f"The disk is full: the stage {stage!r} could not write below {folder or _place(error)}."


def _place(error: BaseException | None) -> Path:
    if error is None:
        return Path.cwd()
    name = getattr(error, "filename", None)
    return Path(name).parent if isinstance(name, str) else _place(error.__cause__ or error.__context__)


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yields a hidden sibling to fill. It takes the place of `folder` at the end; if the block fails it goes away."""
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        publish(draft, folder)
    except OSError as error:
        if is_full(error) and error.filename is None:
            error.filename = str(folder)  # a write, unlike an opening, does not name its file
        raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def publish(built: Path, target: Path) -> None:
    """Puts a finished folder in the place of the old one."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    built.rename(target)
    shutil.rmtree(old, ignore_errors=True)
