"""Checkpoints: config.json, tokenizer.json, weights and their index. What is accepted gives finite numbers."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from model import ModelConfig, Transformer
from tasks.environments.chat import Chat
from tests.fuzz import base, edits
from tests.fuzz.hunt import Nonsense, Target

INDEX = "model.safetensors.index.json"
NAMES = (r"config\.json", r"[\w.-]*safetensors", r"tokenizer\.json", r"The checkpoint \S+", r"longhaul\.json")


def _write(folder: Path, *leave: str) -> None:
    for name, data in base.checkpoint().items():
        if name not in leave:
            (folder / name).write_bytes(data)


def _read(folder: Path) -> None:
    network = Transformer.from_pretrained(folder).eval()
    size = network.config.vocab_size
    with torch.no_grad():
        logits = network(torch.arange(12)[None] % size).logits
    if not bool(torch.isfinite(logits).all()):
        raise Nonsense("the logits are not finite")
    if ModelConfig.from_hugging_face(network.config.to_hugging_face()) != network.config:
        raise Nonsense("the config that is written is read as another one")


def config() -> Target:
    """config.json with other values, types and keys."""
    return Target("config", edits.documents, _write_config, _read, (*NAMES, r"The model's \w+"))


def _write_config(folder: Path, case: Any) -> None:
    _write(folder, "longhaul.json")
    (folder / "config.json").write_bytes(edits.as_json(json.loads(base.checkpoint()["config.json"]), case))


def tokenizer() -> Target:
    """tokenizer.json; accepted, it reads and writes a command."""
    return Target("tokenizer", edits.documents, _write_tokenizer, _read_tokenizer, (r"tokenizer\.json",))


def _write_tokenizer(folder: Path, case: Any) -> None:
    (folder / "tokenizer.json").write_bytes(edits.as_json(json.loads(base.tokenizer_json()), case))


def _read_tokenizer(folder: Path) -> None:
    chat = Chat.load(str(folder / "tokenizer.json"))
    ids = chat.prompt("Copy a.txt to b.txt.")
    if not all(isinstance(number, int) and number >= 0 for number in ids):
        raise Nonsense("an id is no number")
    chat.command(chat.observation("ls -la", 1))


def safetensors() -> Target:
    """model.safetensors: header and bytes, with and without the record of its hash."""
    header = st.tuples(st.just("header"), edits.edits, edits.raw_edits)
    raw = st.tuples(st.just("raw"), st.just([]), st.lists(edits.raw_edit, min_size=1, max_size=3))
    cases = st.tuples(st.one_of(header, raw), st.sampled_from((True, False, False)))
    return Target("safetensors", cases, _write_safetensors, _read, NAMES)


def _write_safetensors(folder: Path, case: Any) -> None:
    (form, changes, raw), recorded = case
    _write(folder, *([] if recorded else ["longhaul.json"]))
    data = base.checkpoint()["model.safetensors"]
    (size,) = struct.unpack("<Q", data[:8])
    if form == "header":
        header = json.dumps(edits.edited(json.loads(data[8 : 8 + size]), changes)).encode()
        data = struct.pack("<Q", len(header)) + header + data[8 + size :]
    (folder / "model.safetensors").write_bytes(edits.mangled(data, raw))


def index() -> Target:
    """The index of a checkpoint of two shards."""
    return Target("index", edits.documents, _write_index, _read, NAMES)


def _write_index(folder: Path, case: Any) -> None:
    from safetensors.torch import load, save

    _write(folder, "longhaul.json", "model.safetensors")
    tensors = load(base.checkpoint()["model.safetensors"])
    halves = [dict(list(tensors.items())[part::2]) for part in (0, 1)]
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name, half in zip(names, halves, strict=True):
        (folder / name).write_bytes(save(half))
    weight_map = {key: name for name, half in zip(names, halves, strict=True) for key in half}
    (folder / INDEX).write_bytes(edits.as_json({"metadata": {"total_size": 1}, "weight_map": weight_map}, case))
