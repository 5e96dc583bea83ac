"""Checkpoints: a Hugging Face folder of `GlmMoeDsaForCausalLM`, written in one step and verified when read.

The routed experts are stacked in memory and one tensor each in the file, as transformers writes them. The MTP layer
is stored where DeepSeek-V3 and GLM-5 store theirs, as the layer after the last one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.config import ModelConfig, ModelConfigError
from model.transformer import Transformer

WEIGHTS, INDEX, CONFIG, RECORD = "model.safetensors", "model.safetensors.index.json", "config.json", "longhaul.json"


class CheckpointError(ValueError):
    """A checkpoint folder that is missing, truncated or altered; the message names the file."""

    exit_status = 2  # the person's mistake, as tasks.cli reads it


def save_transformer(transformer: Transformer, folder: str | Path, extra_files: Mapping[str, bytes]) -> str:
    """Writes `folder` (replacing it) and returns the sha256 of its weights.

    On an error what was there stays; an OSError names the folder.

    extra_files maps file names to contents (tokenizer.json and the like). `longhaul.json` may be among them; the key
    `model_sha256` is added to it.
    """
    target = Path(folder)
    partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        digest = _write_files(transformer, partial, extra_files)
        _replace_folder(partial, target)
    except OSError as error:
        if error.errno is not None:
            error.filename = str(target)  # not the hidden folder; and a write names no file at all
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return digest


def _write_files(transformer: Transformer, folder: Path, extra_files: Mapping[str, bytes]) -> str:
    save_tensors(to_hugging_face(transformer), folder / WEIGHTS, {"format": "pt"})
    digest = file_sha256(folder / WEIGHTS)
    config = transformer.config
    _write_json(folder / CONFIG, config.to_hugging_face())
    _write_json(folder / "generation_config.json", {"eos_token_id": config.eos_token_id, "do_sample": False})
    for name, content in extra_files.items():
        (folder / name).write_bytes(content)
    record = json.loads(extra_files.get(RECORD, b"{}"))
    _write_json(folder / RECORD, record | {"model_sha256": digest})
    return digest


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """A safetensors file. Raises OSError where the operating system refuses (say, on a full disk), naming the file."""
    try:
        save_file(dict(tensors), path, metadata=dict(metadata) if metadata else None)
    except SafetensorError as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from error


def load_transformer(folder: str | Path) -> Transformer:
    """The network of a checkpoint folder, in fp32, ready to train; CheckpointError when the folder is damaged."""
    source = Path(folder)
    config = read_config(source)
    _verify(source)
    transformer = Transformer(config)
    state = from_hugging_face(_read_tensors(source), config)
    _load(transformer, state, source)
    return transformer


def read_config(folder: Path) -> ModelConfig:
    """The configuration in folder/config.json."""
    path = folder / CONFIG
    values = _read_json(path)
    try:
        return ModelConfig.from_hugging_face(values)
    except (ModelConfigError, TypeError) as error:
        raise CheckpointError(f"{path} does not describe a usable model: {error}") from error


def to_hugging_face(transformer: Transformer) -> dict[str, Tensor]:
    """Tensors by the names transformers gives them in a file."""
    last = transformer.config.num_hidden_layers
    tensors: dict[str, Tensor] = {}
    for name, value in transformer.state_dict().items():
        name = f"model.layers.{last}.{name[4:]}" if name.startswith("mtp.") else name
        for file_name, tensor in _unstack(name, value):
            tensors[file_name] = tensor.detach().contiguous().clone()
    return tensors


def from_hugging_face(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The inverse of `to_hugging_face`: a state dict for `Transformer`."""
    rest = dict(tensors)
    state: dict[str, Tensor] = {}
    for name in tensors:
        if name.endswith(".experts.0.gate_proj.weight"):
            prefix = name.removesuffix("0.gate_proj.weight")
            state[f"{prefix}gate_up_proj"], state[f"{prefix}down_proj"] = _restack(rest, prefix, config)
    mtp = f"model.layers.{config.num_hidden_layers}."
    state |= rest
    return {f"mtp.{name[len(mtp) :]}" if name.startswith(mtp) else name: value for name, value in state.items()}


def file_sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unstack(name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    prefix = name.rpartition(".")[0]
    if name.endswith(".experts.gate_up_proj"):
        for expert, (gate, up) in enumerate(zip(*value.chunk(2, dim=1), strict=True)):
            yield f"{prefix}.{expert}.gate_proj.weight", gate
            yield f"{prefix}.{expert}.up_proj.weight", up
    elif name.endswith(".experts.down_proj"):
        for expert, down in enumerate(value):
            yield f"{prefix}.{expert}.down_proj.weight", down
    else:
        yield name, value


def _restack(tensors: dict[str, Tensor], prefix: str, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Takes the experts under `prefix` out of `tensors`: gate and up stacked [E, 2F, D], down [E, D, F]."""
    gate_up, down = [], []
    for expert in range(config.n_routed_experts):
        names = [f"{prefix}{expert}.{part}_proj.weight" for part in ("gate", "up", "down")]
        missing = [name for name in names if name not in tensors]
        if missing:
            raise CheckpointError(f"The checkpoint lacks the tensor {missing[0]}.")
        gate, up, last = (tensors.pop(name) for name in names)
        gate_up.append(torch.cat([gate, up]))
        down.append(last)
    return torch.stack(gate_up), torch.stack(down)


def _verify(folder: Path) -> None:
    """Compares the weights with the digest in longhaul.json, where there is one."""
    if not (folder / RECORD).exists() or not (folder / WEIGHTS).exists():
        return
    expected = _read_json(folder / RECORD).get("model_sha256")
    if expected is not None and file_sha256(folder / WEIGHTS) != expected:
        raise CheckpointError(
            f"{folder / WEIGHTS} does not have the sha256 that {folder / RECORD} records: it was truncated or altered."
        )


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of the folder, from one file or from the shards that its index lists."""
    names = [WEIGHTS]
    if (folder / INDEX).exists():
        names = sorted(set(_read_json(folder / INDEX)["weight_map"].values()))
    tensors: dict[str, Tensor] = {}
    for name in names:
        try:
            tensors |= load_file(folder / name)
        except FileNotFoundError as error:
            raise CheckpointError(f"The checkpoint {folder} has no file {name}.") from error
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{folder / name} is truncated or not a safetensors file ({error}).") from error
    return tensors


def _load(transformer: Transformer, state: dict[str, Tensor], folder: Path) -> None:
    wanted = transformer.state_dict()
    missing, surplus = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or surplus:
        problem = f"lacks the tensor {missing[0]}" if missing else f"has a tensor {surplus[0]} that its config has not"
        raise CheckpointError(f"The checkpoint {folder} {problem}.")
    for name, value in state.items():
        if value.shape != wanted[name].shape:
            raise CheckpointError(
                f"In the checkpoint {folder} the tensor {name} has shape {tuple(value.shape)}, but its config.json "
                f"asks for {tuple(wanted[name].shape)}."
            )
    transformer.load_state_dict(state)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"The checkpoint {path.parent} has no file {path.name}.") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}).") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} does not hold a JSON object.")
    return values


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _replace_folder(partial: Path, target: Path) -> None:
    """Puts a finished folder in place; an old one is moved aside first, so that no mixture is ever seen."""
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    if target.exists():
        os.replace(target, old)
    os.replace(partial, target)
    shutil.rmtree(old, ignore_errors=True)
