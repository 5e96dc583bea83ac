"""What a result was made from: hashes of parameters and inputs.

The commit (tasks.tracking.commit) is no part of a stage's identity: the same parameters and data give the same files
whatever else a commit changed, and files that name it would hash differently. The tracking run records it instead.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from tasks.errors import InputError

DIGESTS = ("longhaul.json", "manifest.json")  # small files that hold the hashes of the large ones beside them
_DIGEST_SIZE = 16  # bytes; 32 hexadecimal digits, within MLflow's limit of 36 for a dataset digest


class ProvenanceError(InputError):
    """An input that a result should be traced to does not exist."""


def provenance(stage: str, config: object, inputs: Sequence[str | Path] = ()) -> dict[str, str]:
    """The stage's identity: its name, params_hash of its sections of `config`, data_hash of its inputs."""
    return {
        "stage": stage,
        "params_hash": params_hash(stage, config),
        "data_hash": _digest(json.dumps({str(path): fingerprint(path) for path in inputs}, sort_keys=True).encode()),
    }


def params_hash(stage: str, config: object) -> str:
    """Hash [32 hex digits] of the stage's own section, the model section, the profile and the seed."""
    return _digest(json.dumps(stage_params(stage, config), sort_keys=True, default=str).encode())


def stage_params(stage: str, config: object) -> dict[str, Any]:
    """The parameters that a stage reads, as plain values."""
    section = getattr(config, stage, {})
    return {
        "profile": getattr(config, "profile", ""),
        "seed": getattr(config, "seed", 0),
        "model": dict(getattr(config, "model", {})),
        stage: asdict(section) if is_dataclass(section) and not isinstance(section, type) else section,
    }


def fingerprint(path: str | Path) -> str:
    """Hash [32 hex digits] of a file, or of a folder by its manifest if it has one and by every file if not.

    Raises ProvenanceError if the path does not exist.
    """
    place = Path(path)
    if place.is_file():
        return file_digest(place)
    if not place.is_dir():
        raise ProvenanceError(f"The input {place} does not exist, so nothing can be traced to it.")
    for name in DIGESTS:
        if (place / name).is_file():
            return file_digest(place / name)
    files = sorted(entry for entry in place.rglob("*") if entry.is_file())
    return _digest("\n".join(f"{file.relative_to(place)} {file_digest(file)}" for file in files).encode())


def file_digest(path: Path) -> str:
    """Hash [32 hex digits] of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=_DIGEST_SIZE)).hexdigest()


def sha256(path: Path) -> str:
    """SHA-256 of a file, as longhaul.json records it for model.safetensors."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=_DIGEST_SIZE).hexdigest()
