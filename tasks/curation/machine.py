"""The default source: text that any machine with this project on it already holds.

The Python standard library, the installed packages and the system's documentation. Files are taken in the order
of the hash of their id, which is an unbiased sample and the same wherever the virtual environment lies.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import sys
import sysconfig
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.curation.documents import Item, RawDocument, SourceError, Unread, decode, document, kind_of, printable

# Test suites are long lists of near-identical assertions; caches and our own code are no corpus.
SKIPPED_FOLDERS = frozenset({"__pycache__", "site-packages", "dist-packages", "test", "tests"})
OWN_PACKAGES = frozenset({"flows", "infra", "kernels", "longhaul", "model", "tasks"})
LARGEST_FILE = 200_000  # bytes on disk; larger ones are generated tables
LARGEST_UNPACKED = 100 * LARGEST_FILE


@dataclass(frozen=True)
class Root:
    """A folder to read: `share` of the byte budget is its first claim."""

    name: str
    folder: Path
    suffixes: frozenset[str]  # empty: every file
    share: float
    skip: frozenset[str] = frozenset()  # top-level names to leave out


def machine_roots() -> tuple[Root, ...]:
    """The folders of the default corpus. Code comes first: the agent's work is commands and Python."""
    paths = sysconfig.get_paths()
    code, prose = frozenset({".py"}), frozenset({".txt", ".md", ".rst"})
    packages = Path(paths["purelib"])
    return (
        Root("stdlib", Path(paths["stdlib"]), code, 0.45),
        Root("packages", packages, code, 0.25, OWN_PACKAGES),
        Root("package-docs", packages, prose, 0.08, OWN_PACKAGES),
        Root("doc", Path("/usr/share/doc"), frozenset(), 0.14),
        Root("manual", Path("/usr/share/man"), frozenset({".1", ".5", ".7", ".8"}), 0.08),
        Root("licenses", Path("/usr/share/common-licenses"), frozenset(), 0.01),
    )


def read_machine(roots: tuple[Root, ...], budget: int, longest: int) -> Generator[Item]:
    """Documents of at most `longest` bytes: of each root its share of `budget` bytes first, then, root by root, all.

    The caller stops taking when it has enough.
    """
    listings = [iter(list_root(root)) for root in roots]
    for limits in ([round(root.share * budget) for root in roots], [sys.maxsize] * len(roots)):
        for root, listing, limit in zip(roots, listings, limits, strict=True):
            yield from _read_some(root, listing, limit, longest)


def list_root(root: Root) -> list[str]:
    """Paths below the root's folder of the files with its suffixes, in the order of the SHA-256 of their ids."""
    return sorted(_walk(root), key=lambda path: hashlib.sha256(os.fsencode(f"{root.name}/{path}")).digest())


def _walk(root: Root) -> Iterator[str]:
    # Strings, not Path objects, and no stat: tens of thousands of files are listed and two thousand read.
    start = len(str(root.folder)) + 1
    for folder, folders, files in os.walk(root.folder):
        below = folder[start:]
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS and (below or not _own(name, root))]
        for name in files:
            if _has_suffix(name, root) and (below or not _own(name, root)):
                yield os.path.join(below, name)


def _own(name: str, root: Root) -> bool:
    return bool(root.skip) and (name.split("-")[0] in root.skip or name.startswith("__editable__"))


def _has_suffix(name: str, root: Root) -> bool:
    return not root.suffixes or os.path.splitext(name.removesuffix(".gz"))[1] in root.suffixes


def _read_some(root: Root, listing: Iterator[str], limit: int, longest: int) -> Iterator[Item]:
    spent = 0
    while spent < limit:
        relative = next(listing, None)
        if relative is None:
            return
        item = _read(root, relative, longest)
        spent += item.size if isinstance(item, RawDocument) else 0
        yield item


def _read(root: Root, relative: str, longest: int) -> Item:
    identifier = f"{root.name}/{printable(relative)}"
    try:
        data = _content(root.folder / relative)
    except _Passed as passed:
        return Unread(str(passed), identifier, root.name, is_file=True)
    try:
        return document(decode(data, relative), kind_of(relative), identifier, root.name, longest)
    except SourceError:
        return Unread("not_utf8", identifier, root.name, len(data))


class _Passed(Exception):
    """A file that the scan does not read; the message is the reason."""


def _content(path: Path) -> bytes:
    """The file's bytes, decompressed. Raises _Passed for a link, a special or unreadable file and one too large."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise _Passed("special")
        if status.st_size > LARGEST_FILE:
            raise _Passed("too_large")
        return _unpack(path.read_bytes(), path.suffix)
    except OSError as error:
        raise _Passed("vanished" if isinstance(error, FileNotFoundError) else "unreadable") from None


def _unpack(data: bytes, suffix: str) -> bytes:
    if suffix != ".gz":
        return data
    try:
        with gzip.open(io.BytesIO(data)) as stream:
            return stream.read(LARGEST_UNPACKED)
    except (OSError, EOFError, zlib.error):
        return data  # a .gz that is none: its bytes fail the UTF-8 check and are counted there
