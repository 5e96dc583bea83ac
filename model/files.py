"""Files of a checkpoint folder: JSON read strictly, weights read through their headers, hashes."""

from __future__ import annotations

import hashlib
import json
import math
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_FLOATING = ("F64", "F32", "F16", "BF16")  # as safetensors names them


class CheckpointError(ValueError):
    """A checkpoint folder that is missing, truncated or altered; the message names the file."""

    exit_status = 2  # the person's mistake, as tasks.cli reads it


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies, and what its file's header says of it."""

    path: Path
    dtype: str
    shape: tuple[int, ...]


class WeightFiles:
    """The tensors of a folder, in model.safetensors or in the shards that its index lists.

    Raises CheckpointError naming the file, here and in every method.
    """

    def __init__(self, folder: Path) -> None:
        """Reads the headers alone."""
        self.folder = folder
        self.whole = (folder / WEIGHTS).is_file()
        listed = {} if self.whole else _weight_map(folder)
        self.entries: dict[str, Entry] = {}
        for path in sorted({folder / name for name in listed.values()} or {folder / WEIGHTS}):
            self._add(path, listed)
        lost = sorted(listed.keys() - self.entries.keys())
        if lost:
            raise CheckpointError(f"{folder / listed[lost[0]]} lacks the tensor {lost[0]} that {folder / INDEX} lists.")

    def _add(self, path: Path, listed: Mapping[str, str]) -> None:
        for name, dtype, shape in _header(path):
            if name in self.entries:
                raise CheckpointError(f"{path} and {self.entries[name].path} both hold the tensor {name}.")
            if listed and listed.get(name) != path.name:
                raise CheckpointError(f"{path} holds a tensor {name} that {self.folder / INDEX} does not list there.")
            self.entries[name] = Entry(path, dtype, shape)

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """The named tensors in fp32; refuses other kinds of number, and what is not finite."""
        for name, tensor in self._stored(names):
            entry = self.entries[name]
            if entry.dtype not in _FLOATING:
                raise CheckpointError(
                    f"{entry.path} holds the tensor {name} as {entry.dtype}, but only weights of "
                    f"{', '.join(_FLOATING)} are read; save the model unquantized."
                )
            value = tensor.to(torch.float32)
            # The sum is much cheaper, and is finite only where all are
            if not math.isfinite(value.sum().item()) and not torch.isfinite(value).all():
                raise CheckpointError(f"{entry.path} holds values that are not finite numbers in the tensor {name}.")
            yield name, value

    def content_sha256(self) -> str:
        """As `content_sha256` of all tensors as they are stored."""
        return content_sha256(self._stored(sorted(self.entries)))

    def _stored(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        by_path: dict[Path, Any] = {}
        for name in names:
            path = self.entries[name].path
            try:
                if path not in by_path:
                    by_path[path] = safe_open(path, framework="pt")
                yield name, by_path[path].get_tensor(name)
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{path} is truncated or not a safetensors file ({str(error)!a}).") from error


def content_sha256(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Hex digest of names, kinds, shapes and bytes of tensors sorted by name: the same in one file or in shards."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object whose keys are unique and whose numbers are finite."""
    if not path.parent.is_dir():
        raise CheckpointError(f"There is no checkpoint folder {path.parent}.")
    if not path.is_file():
        raise CheckpointError(f"The checkpoint {path.parent} has no file {path.name}.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
        values = json.loads(text, object_pairs_hook=_unique, parse_constant=_not_finite)
    except RecursionError as error:
        raise CheckpointError(f"{path} is not valid JSON (it is nested too deeply).") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({str(error).rstrip('.')}).") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}).") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} does not hold a JSON object.")
    return values


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"it holds the key {reprlib.repr(key)} twice")
        found[key] = value
    return found


def _not_finite(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no number")


def _weight_map(folder: Path) -> dict[str, str]:
    """Which file of the folder holds which tensor; a name that leads out of the folder is refused."""
    path = folder / INDEX
    if not path.is_file():
        pickled = next(folder.glob("*.bin"), None)
        hint = f", and {pickled.name} is not read because it may run code" if pickled else ""
        raise CheckpointError(f"The checkpoint {folder} has no file {WEIGHTS}{hint}.")
    listed = read_json(path).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise CheckpointError(f"{path} has no 'weight_map' that says which file holds which tensor.")
    for name, file in listed.items():
        plain = isinstance(file, str) and file == Path(file).name and "\0" not in file and "\\" not in file
        if not plain or not str(file).endswith(".safetensors"):
            raise CheckpointError(
                f"{path} says that {reprlib.repr(file)} holds the tensor {reprlib.repr(name)}, but that names no "
                f"safetensors file of the folder."
            )
    return listed


def _header(path: Path) -> list[tuple[str, str, tuple[int, ...]]]:
    if not path.is_file():
        raise CheckpointError(f"The checkpoint {path.parent} has no file {path.name}.")
    try:
        with safe_open(path, framework="pt") as file:
            parts = ((name, file.get_slice(name)) for name in file.keys())  # noqa: SIM118 (no mapping)
            return [(name, part.get_dtype(), tuple(part.get_shape())) for name, part in parts]
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or not a safetensors file ({ascii(str(error))[:300]}).") from error
