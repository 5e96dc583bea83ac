"""Reads files out of a box from outside it, through a descriptor of its /work and never through a symbolic link."""

import os
import re
import stat
from collections.abc import Iterable, Iterator

from tasks.sandbox.limits import SandboxError

MAX_ENTRIES = 4096
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


def collect_files(folder: int, globs: Iterable[str], max_bytes: int) -> dict[str, bytes]:
    """The regular files below descriptor `folder` that match, as bytes by relative path.

    Files that cannot be read, and those that would take the total above `max_bytes` (sparse files are as long as
    they say), are left out: to a judge they are missing.
    """
    pattern = glob_pattern(globs)
    found: dict[str, bytes] = {}
    left = max_bytes
    for path, content in _walk(folder, "", pattern, [MAX_ENTRIES]):
        if len(content) <= left:
            found[path] = content
            left -= len(content)
    return found


def _walk(folder: int, prefix: str, pattern: re.Pattern[str], entries: list[int]) -> Iterator[tuple[str, bytes]]:
    for name in sorted(_names(folder)):
        entries[0] -= 1
        if entries[0] < 0:
            return
        path = prefix + name
        mode = _mode(folder, name)
        if stat.S_ISDIR(mode) and path.count("/") < MAX_DEPTH:
            yield from _enter(folder, name, path, pattern, entries)
        elif stat.S_ISREG(mode) and pattern.match(path):
            content = _read(folder, name)
            if content is not None:
                yield path, content


def _enter(
    folder: int, name: str, path: str, pattern: re.Pattern[str], entries: list[int]
) -> Iterator[tuple[str, bytes]]:
    try:
        inner = os.open(name, FOLDER_FLAGS, dir_fd=folder)
    except OSError:  # swapped for a link or closed to us since we looked
        return
    try:
        yield from _walk(inner, f"{path}/", pattern, entries)
    finally:
        os.close(inner)


def _names(folder: int) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry, _ in zip(entries, range(MAX_ENTRIES), strict=False)]


def _mode(folder: int, name: str) -> int:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except OSError:
        return 0


def _read(folder: int, name: str, max_bytes: int = 64 << 20) -> bytes | None:
    try:
        descriptor = os.open(name, FILE_FLAGS, dir_fd=folder)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > max_bytes:
            return None
        return file.read(max_bytes)
