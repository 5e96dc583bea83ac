"""Reads files out of a box from outside it, through a descriptor of its /work and never through a symbolic link."""

import os
import re
import stat
from collections.abc import Iterable, Iterator

from tasks.sandbox.limits import SandboxError

MAX_ENTRIES = 4096
MAX_FILES = 64
MAX_FILE_BYTES = 64 << 20
OVERFLOW = ".longhaul-overflow"  # the one key of a collection that passed a bound
MAX_DEPTH = 16
FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # non-blocking: a pipe must not hold us up


def check_path(path: str) -> str:
    """`path` itself if it is relative and stays in its folder; SandboxError otherwise."""
    parts = path.split("/")
    if not path or path.startswith("/") or any(part in ("", ".", "..") for part in parts) or "\0" in path:
        raise SandboxError(f"The path {path!r} must be relative, without empty parts, '.' or '..'.")
    return path


def glob_pattern(globs: Iterable[str]) -> re.Pattern[str]:
    """One pattern for relative paths: `*` and `?` stay within a folder, `**/` matches any number of folders."""
    return re.compile("|".join(_translate(check_path(glob)) for glob in globs) or r"(?!)")


def _translate(glob: str) -> str:
    pieces = re.split(r"(\*\*/|\*\*$|\*|\?)", glob)
    replaced = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "(?s:" + "".join(replaced.get(piece, re.escape(piece)) for piece in pieces) + r")\Z"


class _Overflow(Exception):
    """A bound of collecting was passed, or something that matches could not be read."""


def collect_files(folder: int, globs: Iterable[str], max_bytes: int) -> dict[str, bytes]:
    """The regular files below descriptor `folder` that match, as bytes by relative path.

    More than MAX_FILES files, MAX_ENTRIES entries looked at or `max_bytes` in all (sparse files are as long as they
    say), or a file that cannot be read, gives `{OVERFLOW: reason}` alone. Leaving files out silently would let an
    agent hide a file that a test wants gone; the judge fails such artifacts whole.
    """
    found: dict[str, bytes] = {}
    left = max_bytes
    try:
        for path, content in _walk(folder, "", glob_pattern(globs), [MAX_ENTRIES]):
            found[path] = content
            left -= len(content)
            if left < 0 or len(found) > MAX_FILES:
                raise _Overflow(f"more than {MAX_FILES} files or {max_bytes} bytes")
    except _Overflow as reason:
        return {OVERFLOW: str(reason).encode()}
    return found


def _walk(folder: int, prefix: str, pattern: re.Pattern[str], entries: list[int]) -> Iterator[tuple[str, bytes]]:
    for name in sorted(_names(folder, entries)):
        path = prefix + name
        mode = _mode(folder, name)
        if stat.S_ISDIR(mode):
            yield from _enter(folder, name, path, pattern, entries)
        elif stat.S_ISREG(mode) and pattern.match(path):
            yield path, _read(folder, name, path)


def _enter(
    folder: int, name: str, path: str, pattern: re.Pattern[str], entries: list[int]
) -> Iterator[tuple[str, bytes]]:
    if path.count("/") >= MAX_DEPTH:
        raise _Overflow(f"folders deeper than {MAX_DEPTH}")
    inner = _open(name, FOLDER_FLAGS, folder, path)
    try:
        yield from _walk(inner, f"{path}/", pattern, entries)
    finally:
        os.close(inner)


def _names(folder: int, entries: list[int]) -> list[str]:
    """The names in a folder; `entries` counts down over the whole walk."""
    names = []
    with os.scandir(folder) as found:
        for entry in found:
            entries[0] -= 1
            if entries[0] < 0:
                raise _Overflow(f"more than {MAX_ENTRIES} files and folders")
            names.append(entry.name)
    return names


def _mode(folder: int, name: str) -> int:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:  # a process in the box removed it since we looked
        return 0


def _read(folder: int, name: str, path: str) -> bytes:
    with os.fdopen(_open(name, FILE_FLAGS, folder, path), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
            raise _Overflow(f"{path} is no plain file of at most {MAX_FILE_BYTES} bytes")
        return file.read(MAX_FILE_BYTES)


def _open(name: str, flags: int, folder: int, path: str) -> int:
    try:
        return os.open(name, flags, dir_fd=folder)
    except OSError as error:  # swapped for a link since we looked, or closed to us
        raise _Overflow(f"{path} could not be read: {error.strerror}") from error
