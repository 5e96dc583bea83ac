"""The default source: text that any machine with this project on it already holds.

The Python standard library, the installed packages and the system's documentation. Files are taken in the order
of the hash of their id, which is an unbiased sample and the same wherever the virtual environment lies.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import sysconfig
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tasks.curation.documents import RawDocument, kind_of

# Test suites are long lists of near-identical assertions; caches and our own code are no corpus.
SKIPPED_FOLDERS = frozenset({"__pycache__", "site-packages", "dist-packages", "test", "tests"})
OWN_PACKAGES = ("flows", "infra", "kernels", "longhaul", "model", "tasks", "__editable__")
LARGEST_FILE = 200_000  # bytes on disk; larger ones are generated tables


@dataclass(frozen=True)
class Root:
    """A folder to read: `share` of the byte budget is its first claim."""

    name: str
    folder: Path
    suffixes: frozenset[str]  # empty: every file
    share: float
    skip: tuple[str, ...] = ()


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


def list_root(root: Root) -> list[tuple[str, Path]]:
    """(id, path) of the root's files in the order of their ids' SHA-256."""
    found = [(f"{root.name}/{path.relative_to(root.folder).as_posix()}", path) for path in _walk(root)]
    return sorted(found, key=lambda pair: hashlib.sha256(pair[0].encode("utf-8", "surrogateescape")).digest())


def _walk(root: Root) -> Iterator[Path]:
    for folder, folders, files in os.walk(root.folder):
        top = Path(folder) == root.folder
        folders[:] = [name for name in folders if not _skipped(name, root, top)]
        for name in files:
            path = Path(folder, name)
            if not (top and name.startswith(root.skip or "\0")) and _wanted(path, root):
                yield path


def _skipped(name: str, root: Root, top: bool) -> bool:
    return name in SKIPPED_FOLDERS or (top and name.removesuffix(".dist-info").split("-")[0] in root.skip)


def _wanted(path: Path, root: Root) -> bool:
    inner = path.with_suffix("") if path.suffix == ".gz" else path
    if root.suffixes and inner.suffix not in root.suffixes:
        return False
    return path.is_file() and not path.is_symlink() and 0 < path.stat().st_size <= LARGEST_FILE


def _read_some(root: Root, listing: Iterator[tuple[str, Path]], limit: int, tally: Tally) -> Iterator[RawDocument]:
    stop = tally.total_bytes + limit
    while tally.total_bytes < stop:
        pair = next(listing, None)
        if pair is None:
            return
        data = _content(pair[1])
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            tally.not_utf8_documents += 1
            tally.not_utf8_bytes += len(data)
            continue
        tally.add(root.name, len(data))
        yield RawDocument(pair[0], text, kind_of(pair[0]), root.name)


def _content(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix != ".gz":
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error):
        return data  # a .gz that is none: its bytes fail the UTF-8 check and are counted there
