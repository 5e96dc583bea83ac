"""Says how much a resolved lock downloads: `python infra/downloads.py [--bytes] pylock.toml`.

The lock is PEP 751's, with sizes as the index gives them; `--bytes` prints the bare sum.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGEST = 3  # packages that are named


def summary(packages: Sequence[Mapping[str, Any]]) -> str:
    """One line: how many packages, how many bytes, and which are the largest."""
    sizes = sorted(((_size(package), package["name"]) for package in packages), reverse=True)
    total = total_bytes(packages)
    named = ", ".join(f"{name} {_readable(size)}" for size, name in sizes[:LARGEST])
    return f"{len(sizes)} packages, {_readable(total)} less what is cached (the largest: {named})"


def total_bytes(packages: Sequence[Mapping[str, Any]]) -> int:
    """Bytes of all files."""
    return sum(_size(package) for package in packages)


def _size(package: Mapping[str, Any]) -> int:
    """Bytes of the file that is installed: the only wheel, or the source archive; a local one is asked of the disk."""
    files = package.get("wheels") or [package[kind] for kind in ("sdist", "archive") if kind in package]
    return max((int(file.get("size") or _on_disk(file)) for file in files), default=0)


def _on_disk(file: Mapping[str, Any]) -> int:
    place = Path(file.get("path") or unquote(urlsplit(file.get("url", "")).path))
    return place.stat().st_size if place.is_file() else 0


def _readable(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


if __name__ == "__main__":
    locked = tomllib.loads(Path(sys.argv[-1]).read_text(encoding="utf-8"))["packages"]
    print(total_bytes(locked) if "--bytes" in sys.argv else summary(locked))
