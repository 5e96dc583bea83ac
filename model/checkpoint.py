"""Checkpoints: a Hugging Face folder of `GlmMoeDsaForCausalLM`, written in one step and verified when read."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from model.config import ModelConfig, ModelConfigError
from model.files import WEIGHTS, CheckpointError, WeightFiles, content_sha256, file_sha256, read_json
from model.tensor_names import (
    expected_shapes,
    from_hugging_face,
    is_unused,
    mtp_prefix,
    shared_copies,
    to_hugging_face,
)
from model.transformer import Transformer

__all__ = ["CheckpointError", "file_sha256", "load_transformer", "read_config", "save_tensors", "save_transformer"]

CONFIG, RECORD, CONTENT = "config.json", "longhaul.json", "tensors.sha256"
_log = logging.getLogger(__name__)


def save_transformer(transformer: Transformer, folder: str | Path, extra_files: Mapping[str, bytes]) -> str:
    """Writes `folder` (replacing it) and returns the sha256 of its weights.

    On an error what was there stays; an OSError names the folder.

    extra_files maps file names to contents (tokenizer.json and the like). `longhaul.json` may be among them; the key
    `model_sha256` is added to it. `tensors.sha256` is the hash of what the weights are, in one file or in shards.
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
    tensors = to_hugging_face(transformer)
    save_tensors(tensors, folder / WEIGHTS, {"format": "pt"})
    digest = file_sha256(folder / WEIGHTS)
    (folder / CONTENT).write_text(content_sha256(sorted(tensors.items())) + "\n", encoding="utf-8")
    _write_json(folder / CONFIG, transformer.config.to_hugging_face())
    _write_json(folder / "generation_config.json", _generation(transformer.config))
    for name, content in extra_files.items():
        (folder / name).write_bytes(content)
    _write_json(folder / RECORD, json.loads(extra_files.get(RECORD, b"{}")) | {"model_sha256": digest})
    return digest


def _generation(config: ModelConfig) -> dict[str, Any]:
    """Where other programs stop: at every token that ends a turn, behind which another writes."""
    ends = list(config.eos_token_ids)
    return {"eos_token_id": ends or None, "pad_token_id": ends[0] if ends else None, "do_sample": False}


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
    """The network of a checkpoint folder, in fp32, ready to train; CheckpointError when the folder is damaged.

    Weights of 16 bits are widened. An MTP layer that the files lack, as those lack it that transformers saved, is left
    out, and so is one that config.json switches off; a notice is logged.
    """
    source = Path(folder)
    config = read_config(source)
    files = WeightFiles(source)
    _verify(source, files)
    transformer = _fitting(_outline(config, source), files)
    state = from_hugging_face(dict(files.read(expected_shapes(transformer, files.entries))), transformer.config)
    _check_copies(files, transformer.config, state)
    transformer.allocate(torch.get_default_device())
    transformer.load_state_dict(state)
    return transformer


def read_config(folder: Path) -> ModelConfig:
    """The configuration in folder/config.json."""
    path = folder / CONFIG
    values = read_json(path)
    try:
        return ModelConfig.from_hugging_face(values)
    except ModelConfigError as error:
        raise CheckpointError(f"{path} does not describe a usable model: {error}") from error


def _verify(folder: Path, files: WeightFiles) -> None:
    """Compares the weights with the hash that was written beside them, where there is one."""
    record, content = folder / RECORD, folder / CONTENT
    of_file = read_json(record).get("model_sha256") if record.exists() else None
    of_content = content.read_bytes().decode("utf-8", "replace").strip() if content.exists() else None
    if of_file is None and of_content is None:
        _log.warning("The checkpoint %s carries no hash of its weights; they were not verified.", folder)
    elif files.whole and of_file is not None:
        if file_sha256(folder / WEIGHTS) != of_file:
            raise _altered(str(folder / WEIGHTS), record)
    elif files.content_sha256() != of_content:
        raise _altered(f"What the weight files of {folder} hold", record if of_content is None else content)


def _altered(what: str, record: Path) -> CheckpointError:
    return CheckpointError(
        f"{what} does not have the sha256 that {record} records: it was truncated or altered; if it was written anew "
        f"on purpose, delete {RECORD} and {CONTENT}."
    )


def _outline(config: ModelConfig, folder: Path) -> Transformer:
    """The network without memory for its weights."""
    try:
        with torch.device("meta"):
            return Transformer(config, seed=None)
    except (RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{folder / CONFIG} describes a network too large for any memory.") from error


def _fitting(plan: Transformer, files: WeightFiles) -> Transformer:
    """The outline of the network that the files hold: as configured, or without the MTP layer."""
    try:
        _compare(plan, files)
        return plan
    except CheckpointError:
        mtp = mtp_prefix(plan.config)
        if plan.mtp is None or any(name.startswith(mtp) for name in files.entries):
            raise
        bare = _outline(replace(plan.config, num_nextn_predict_layers=0), files.folder)
        found, wanted = files.entries.keys(), expected_shapes(bare, files.entries).keys()
        if wanted - found or _surplus(bare.config, files, set(found - wanted)):
            raise  # more is wrong with it
    _compare(bare, files)
    _log.warning("The checkpoint %s lacks the MTP layer that its config.json names; it is left out.", files.folder)
    return bare


def _compare(plan: Transformer, files: WeightFiles) -> None:
    """Refuses a missing, a surplus or a wrongly shaped tensor by its name."""
    wanted, folder = expected_shapes(plan, files.entries), files.folder
    missing = sorted(wanted.keys() - files.entries.keys())
    if missing:
        raise CheckpointError(f"The checkpoint {folder} lacks the tensor {missing[0]}.")
    surplus = _surplus(plan.config, files, set(files.entries.keys() - wanted.keys()))
    if surplus:
        raise CheckpointError(f"The checkpoint {folder} has a tensor {min(surplus)} that its config has not.")
    for name, shape in wanted.items():
        if files.entries[name].shape != shape:
            raise CheckpointError(
                f"In the checkpoint {folder} the tensor {name} has shape {files.entries[name].shape}, but its "
                f"{CONFIG} asks for {shape}."
            )


def _surplus(config: ModelConfig, files: WeightFiles, extra: set[str]) -> set[str]:
    """Of tensors the network does not read, those that say it is another one."""
    copies = shared_copies(config) if config.num_nextn_predict_layers else {}
    extra = {name for name in extra if name not in copies and not is_unused(name, config)}
    mtp = mtp_prefix(config)
    if not config.num_nextn_predict_layers and f"{mtp}eh_proj.weight" in extra:
        _log.warning("The MTP layer of the checkpoint %s is left out, as its config.json says.", files.folder)
        extra = {name for name in extra if not name.startswith(mtp)}
    return extra


def _check_copies(files: WeightFiles, config: ModelConfig, state: Mapping[str, Tensor]) -> None:
    """The MTP layer shares embedding and head with the trunk; a file that gives it others is refused."""
    copies = shared_copies(config) if config.num_nextn_predict_layers else {}
    for name, tensor in files.read(sorted(copies.keys() & files.entries.keys())):
        if not torch.equal(tensor, state[copies[name]]):
            raise CheckpointError(
                f"In the checkpoint {files.folder} the tensor {name} differs from {copies[name]}, but here the MTP "
                f"layer shares it with the other layers."
            )


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _replace_folder(partial: Path, target: Path) -> None:
    """Puts a finished folder in place; an old one is moved aside first, so that no mixture is ever seen."""
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    if target.exists():
        os.replace(target, old)
    os.replace(partial, target)
    shutil.rmtree(old, ignore_errors=True)
