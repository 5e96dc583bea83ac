"""Folders that are complete or absent: written beside their place, hashed, renamed at the end."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist

from model.checkpoint import CheckpointError
from tasks.disk import is_full
from tasks.training import distributed

MANIFEST = "manifest.json"
_LEAST = 1 << 16  # bytes; torch's writer does not say why it failed, so a disk with less than this is taken as full


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """Yields a temporary sibling that all ranks write into; it takes the name `folder` at the end.

    Where the block fails the sibling goes away. A full disk is an OSError that names `folder`, whatever torch says.
    """
    temporary = folder.with_name(f"{folder.name}.tmp")
    if distributed.rank() == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    _barrier()
    try:
        yield temporary
        _barrier()
        if distributed.rank() == 0:
            _write_manifest(temporary)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(temporary, folder)
    except (OSError, RuntimeError) as error:
        full = is_full(error) or shutil.disk_usage(temporary).free < _LEAST
        shutil.rmtree(temporary, ignore_errors=True)
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        raise
    _barrier()


def verify(folder: Path) -> None:
    """Raises CheckpointError naming the first file that is missing or altered."""
    manifest = folder / MANIFEST
    advice = f"delete the folder {folder.parent} to train from the beginning"
    try:
        expected: dict[str, str] = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise CheckpointError(f"The resume state has no readable manifest {manifest}; {advice}.") from None
    for name, digest in expected.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"The resume state lacks its file {path}; {advice}.")
        if file_digest(path) != digest:
            raise CheckpointError(f"The resume state's file {path} is damaged (its SHA-256 differs); {advice}.")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_manifest(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {str(path.relative_to(folder)): file_digest(path) for path in files}
    (folder / MANIFEST).write_text(json.dumps(digests, indent=1), encoding="utf-8")


def _barrier() -> None:
    if distributed.ranks() > 1:
        dist.barrier()
