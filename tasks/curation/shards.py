"""Packed token shards with a hashed manifest: little-endian integers, a zero after each document."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from tasks.errors import InputError

FORMAT = 1
SEPARATOR = 0


class ShardError(InputError):
    """A shard or its manifest is missing, truncated or altered; the message names the file."""


def token_type(vocab_size: int) -> np.dtype[Any]:
    """Unsigned 16 bits while they hold every id, else 32; little-endian on every machine."""
    return np.dtype("<u2" if vocab_size <= 65535 else "<u4")


def write_shards(
    folder: Path, split: str, documents: Iterable[Sequence[int]], vocab_size: int, shard_tokens: int
) -> list[dict[str, Any]]:
    """Writes `<split>-00000.bin` and on; a shard is closed after the document that fills it.

    Returns the manifest's entries: file, sha256, tokens.
    """
    entries: list[dict[str, Any]] = []
    pending: list[NDArray[Any]] = []
    count = 0
    for document in documents:
        pending.append(np.array([*document, SEPARATOR], dtype=token_type(vocab_size)))
        count += len(pending[-1])
        if count >= shard_tokens:
            entries.append(_write_one(folder, split, len(entries), pending))
            pending, count = [], 0
    if pending:
        entries.append(_write_one(folder, split, len(entries), pending))
    return entries


def _write_one(folder: Path, split: str, number: int, arrays: list[NDArray[Any]]) -> dict[str, Any]:
    tokens = np.concatenate(arrays)
    path = folder / f"{split}-{number:05d}.bin"
    path.write_bytes(tokens.tobytes())
    return {"file": path.name, "sha256": hashlib.sha256(tokens.tobytes()).hexdigest(), "tokens": len(tokens)}


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True)
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]  # a plain name, in the folder itself
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    tokens: PositiveInt


class _Split(BaseModel):
    shards: list[_Entry]


class _Manifest(BaseModel):
    model_config = ConfigDict(strict=True)
    vocab_size: Annotated[int, Field(gt=0, le=2**32)]
    splits: dict[str, _Split]


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a corpus folder. Raises ShardError if it is missing, broken or of another format."""
    path = Path(folder) / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ShardError(f"The corpus manifest {path} does not exist; run the stage 'curate' first.") from None
    except (ValueError, RecursionError) as error:
        raise ShardError(f"The corpus manifest {path} is not valid JSON: {error}.") from None
    except OSError as error:
        raise ShardError(f"The corpus manifest {path} cannot be read: {error.strerror}.") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ShardError(f"The corpus manifest {path} is not of format {FORMAT}.")
    _check_manifest(manifest, path)
    return manifest


def _check_manifest(manifest: dict[str, Any], path: Path) -> None:
    try:
        _Manifest.model_validate(manifest)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise ShardError(f"The corpus manifest {path} is broken at {key!r}: {first['msg'].lower()}.") from None


def read_split(folder: str | Path, split: str) -> NDArray[Any]:
    """The tokens of one split, [N], after checking the size, SHA-256 and largest token of each of its shards.

    One shard stays memory-mapped; several are joined in memory. Raises ShardError naming the file that is wrong.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if split not in manifest["splits"]:
        raise ShardError(f"The corpus manifest {folder / 'manifest.json'} has no split {split!r}.")
    entries = manifest["splits"][split]["shards"]
    arrays = [_read_one(folder / entry["file"], entry, manifest["vocab_size"]) for entry in entries]
    if not arrays:
        raise ShardError(f"The split {split!r} of the corpus {folder} is empty.")
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _read_one(path: Path, entry: dict[str, Any], vocab_size: int) -> NDArray[Any]:
    dtype = token_type(vocab_size)
    if not path.is_file():
        raise ShardError(f"The shard {path} is missing.")
    expected = entry["tokens"] * dtype.itemsize
    if path.stat().st_size != expected:
        raise ShardError(
            f"The shard {path} is truncated or altered: {path.stat().st_size} bytes instead of {expected}."
        )
    try:
        tokens = np.memmap(path, dtype=dtype, mode="r")
    except OSError as error:
        raise ShardError(f"The shard {path} cannot be read: {error.strerror}.") from None
    if hashlib.sha256(tokens.data).hexdigest() != entry["sha256"]:
        raise ShardError(f"The shard {path} is altered: its SHA-256 is not the one in the manifest.")
    if int(tokens.max()) >= vocab_size:
        raise ShardError(f"The shard {path} holds the token {int(tokens.max())} of a vocabulary of {vocab_size}.")
    return tokens
