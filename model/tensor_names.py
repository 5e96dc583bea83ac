"""The names of a network's tensors in a file, which are transformers' own.

The routed experts are stacked in memory and one tensor each in the file. The MTP layer is stored where DeepSeek-V3 and
GLM-5 store theirs, as the layer after the last one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor

from model.config import ModelConfig
from model.transformer import Transformer

_COPIES = {"embed_tokens.weight": "model.embed_tokens.weight", "shared_head.head.weight": "lm_head.weight"}


def to_hugging_face(transformer: Transformer) -> dict[str, Tensor]:
    """Tensors by the names transformers gives them in a file."""
    named = transformer.state_dict().items()
    parts = (part for name, value in named for part in _unstack(_file_name(name, transformer.config), value))
    return {name: tensor.detach().contiguous().clone() for name, tensor in parts}


def expected_shapes(transformer: Transformer, present: Collection[str]) -> dict[str, tuple[int, ...]]:
    """What a file must hold for this network; experts may be stacked in the file too."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, value in transformer.state_dict().items():
        name = _file_name(name, transformer.config)
        parts = [(name, value)] if name in present else _unstack(name, value)
        shapes |= {part: tuple(tensor.shape) for part, tensor in parts}
    return shapes


def from_hugging_face(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The inverse of `to_hugging_face`: a state dict for `Transformer`, of tensors that were found complete."""
    rest = dict(tensors)
    state: dict[str, Tensor] = {}
    for name in tensors:
        if name.endswith(".experts.0.gate_proj.weight"):
            prefix = name.removesuffix("0.gate_proj.weight")
            state[f"{prefix}gate_up_proj"], state[f"{prefix}down_proj"] = _restack(rest, prefix, config)
    mtp = mtp_prefix(config)
    state |= rest
    return {f"mtp.{name[len(mtp) :]}" if name.startswith(mtp) else name: value for name, value in state.items()}


def mtp_prefix(config: ModelConfig) -> str:
    """How the names of the MTP layer begin in a file."""
    return f"model.layers.{config.num_hidden_layers}."


def shared_copies(config: ModelConfig) -> dict[str, str]:
    """Names under which a file may repeat, in the MTP layer, what the trunk has: {copy: original}."""
    return {mtp_prefix(config) + copy: original for copy, original in _COPIES.items()}


def is_unused(name: str, config: ModelConfig) -> bool:
    """Whether a file may hold this tensor, although no part of the network reads it.

    These are the tables of rotary positions, and indexers of layers that take the selection of the one before.
    """
    if name.endswith(".rotary_emb.inv_freq"):
        return True
    shared = (index for index, kind in enumerate(config.indexer_types) if kind == "shared")
    return any(name.startswith(f"model.layers.{index}.self_attn.indexer.") for index in shared)


def _file_name(name: str, config: ModelConfig) -> str:
    return mtp_prefix(config) + name[4:] if name.startswith("mtp.") else name


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
        gate, up, last = (tensors.pop(f"{prefix}{expert}.{part}_proj.weight") for part in ("gate", "up", "down"))
        gate_up.append(torch.cat([gate, up]))
        down.append(last)
    return torch.stack(gate_up), torch.stack(down)
