"""How far the gradients under autocast are from those of fp32: the same weights and the same batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from model import Transformer
from tasks.benchmarks.dsa.material import Material
from tasks.config import Config
from tasks.training.data import Batch, Mode, draw_batch

ROWS = 4
PARTS = {  # by what a parameter's name holds, the first that fits
    "indexer": (".indexer.",),
    "attention": (".self_attn.",),
    "router": ("mlp.gate.",),
    "experts": (".experts.", ".shared_experts."),
    "embedding and head": ("embed_tokens", "lm_head"),
}


def agreements(network: Transformer, material: Material, config: Config, seed: int) -> dict[str, dict[str, Any]]:
    """{mode: agreement} on one batch of text a mode, at the context that mode is trained at."""
    lengths: dict[Mode, int] = {"dense": config.pretrain.context, "sparse": config.midtrain.context}
    batches = {mode: draw_batch(material.train, seed, 0, ROWS, length) for mode, length in lengths.items()}
    return {mode: agreement(network, batch, mode) for mode, batch in batches.items()}  # type: ignore[arg-type]


def agreement(network: Transformer, batch: Batch, mode: Mode) -> dict[str, Any]:
    """|bf16 - fp32| / |fp32| and the cosine of all gradients, and the ratio of each part."""
    plain, rounded = (_gradients(network, batch, mode, autocast) for autocast in (False, True))
    names: dict[str, list[str]] = {}
    for name in plain:
        names.setdefault(_part(name), []).append(name)
    whole = list(plain)
    return {
        "error": _error(plain, rounded, whole),
        "cosine": _dot(plain, rounded, whole) / (_dot(plain, plain, whole) * _dot(rounded, rounded, whole)) ** 0.5,
        "parts": {part: _error(plain, rounded, members) for part, members in names.items()},
    }


def _gradients(network: Transformer, batch: Batch, mode: Mode, autocast: bool) -> dict[str, Tensor]:
    network.zero_grad()
    torch.manual_seed(0)  # draws the rows that teach the indexer
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        total = network.loss(batch.token_ids, batch.loss_weights, batch.document_ids, mode).total
    total.backward()
    found = {name: p.grad.double() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    return found


def _part(name: str) -> str:
    return next((part for part, marks in PARTS.items() if any(mark in name for mark in marks)), "other")


def _dot(a: dict[str, Tensor], b: dict[str, Tensor], names: list[str]) -> float:
    return float(sum((a[name] * b[name]).sum() for name in names))


def _error(plain: dict[str, Tensor], rounded: dict[str, Tensor], names: list[str]) -> float:
    difference = {name: rounded[name] - plain[name] for name in names}
    return float((_dot(difference, difference, names) / max(_dot(plain, plain, names), 1e-300)) ** 0.5)
