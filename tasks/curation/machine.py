"""The default source: text that any machine with this project on it already holds.

The Python standard library, the installed packages and the system's documentation. Files are taken in the order
of the hash of their id, which is an unbiased sample and the same wherever the virtual environment lies.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import sysconfig
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tasks.curation.documents import RawDocument, kind_of

# Test suites are long lists of near-identical assertions; caches and our own code are no corpus.
SKIPPED_FOLDERS = frozenset({"__pycache__", "site-packages", "dist-packages", "test", "tests"})
OWN_PACKAGES = frozenset({"flows", "infra", "kernels", "longhaul", "model", "tasks"})
LARGEST_FILE = 200_000  # bytes on disk; larger ones are generated tables


@dataclass(frozen=True)
class Root:
    """A folder to read: `share` of the byte budget is its first claim."""

    name: str
    folder: Path
    suffixes: frozenset[str]  # empty: every file
    share: float
    skip: frozenset[str] = frozenset()  # top-level names to leave out


@dataclass
class Tally:
    """What reading met: documents and bytes by source, and files that were not UTF-8."""

    documents: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    not_utf8_documents: int = 0
    not_utf8_bytes: int = 0

    def add(self, source: str, size: int) -> None:
        """Counts one document of `size` bytes."""
        self.documents[source] = self.documents.get(source, 0) + 1
        self.bytes[source] = self.bytes.get(source, 0) + size

    @property
    def total_bytes(self) -> int:
        """Bytes read so far, those that were not UTF-8 included."""
        return sum(self.bytes.values()) + self.not_utf8_bytes

    @property
    def total_documents(self) -> int:
        """Documents read so far, those that were not UTF-8 included."""
        return sum(self.documents.values()) + self.not_utf8_documents


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


def read_machine(roots: tuple[Root, ...], max_bytes: int, tally: Tally) -> Iterator[RawDocument]:
    """Documents up to `max_bytes`: each root's share first, then what is left of the budget, root by root."""
    listings = [iter(list_root(root)) for root in roots]
    limits = [round(root.share * max_bytes) for root in roots]
    for round_limits in (limits, [max_bytes] * len(roots)):
        for root, listing, limit in zip(roots, listings, round_limits, strict=True):
            yield from _read_some(root, listing, min(limit, max_bytes - tally.total_bytes), tally)


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


def _read_some(root: Root, listing: Iterator[str], limit: int, tally: Tally) -> Iterator[RawDocument]:
    stop = tally.total_bytes + limit
    while tally.total_bytes < stop:
        relative = next(listing, None)
        if relative is None:
            return
        data = _content(root.folder / relative)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            tally.not_utf8_documents += 1
            tally.not_utf8_bytes += len(data)
            continue
        if text:
            tally.add(root.name, len(data))
            yield RawDocument(f"{root.name}/{relative}", text, kind_of(relative), root.name)


def _content(path: Path) -> bytes:
    """The file's bytes, decompressed; none for a link, a special or unreadable file and one too large."""
    status = path.lstat()
    regular = stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK)
    if not regular or status.st_size > LARGEST_FILE:
        return b""
    data = path.read_bytes()
    if path.suffix != ".gz":
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error):
        return data  # a .gz that is none: its bytes fail the UTF-8 check and are counted there
