"""MLA in its absorbed, multi-query form, which the kernels of a GPU take (DeepSeek-V2, arXiv 2405.04434, 2.1.2).

The key up-projection goes into the queries, so that all heads attend to one latent a token: sparse attention gathers a
selected token's latent once for all heads. On a CPU the products that this costs are dearer than the gathers it saves.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kernels import launch
from kernels.lightning_indexer import attention_lse, indexer_loss_listed, indexer_loss_visible
from kernels.sparse_attention import fits, sparse_mla
from model.config import ModelConfig
from model.indexer import Selection
from model.packing import Packing


class Absorbed(NamedTuple):
    """query [B, T, H, rank + rope]; latent [B, S, rank + rope], the normalised latent and the rotated key."""

    query: Tensor
    latent: Tensor


def absorbs(x: Tensor, config: ModelConfig) -> bool:
    """Whether attention over x goes to the GPU's kernels."""
    sizes = fits(x, config.kv_lora_rank, config.qk_rope_head_dim) and launch.tiles(config.index_head_dim)
    return launch.on_gpu(x) and sizes


def absorb(query: Tensor, latent: Tensor, rotary: Tensor, up: Tensor, config: ModelConfig) -> Absorbed:
    """query [B, H, T, nope + rope], latent [B, S, rank], rotary [B, S, rope], up [H * (nope + v), rank]."""
    nope, turned = query.transpose(1, 2).split([config.qk_nope_head_dim, config.qk_rope_head_dim], dim=-1)
    key_up, _ = _up_projections(up, config)
    wide = torch.einsum("bthn,hnr->bthr", nope, key_up)
    dtype = wide.dtype
    return Absorbed(torch.cat([wide, turned.to(dtype)], -1), torch.cat([latent.to(dtype), rotary.to(dtype)], -1))


def attend(inputs: Absorbed, selection: Selection, up: Tensor, scale: float, config: ModelConfig) -> tuple[Tensor, ...]:
    """(output [B, T, H, v], the indexer's loss if it learns) over the selected keys."""
    assert selection.keys is not None
    out, lse = sparse_mla(*inputs, selection.keys, scale, config.kv_lora_rank)
    _, value_up = _up_projections(up, config)
    values = torch.einsum("bthr,hvr->bthv", out, value_up)
    if selection.inputs is None or selection.rows is None:
        return (values,)
    rows = selection.rows
    teacher = inputs.query[:, rows], inputs.latent, lse[:, rows]
    return values, indexer_loss_listed(tuple(selection.inputs), teacher, selection.keys[:, rows].contiguous(), scale)


def teach_visible(inputs: Absorbed, selection: Selection, packing: Packing, scale: float) -> Tensor:
    """The indexer's loss against dense attention; `inputs.query` holds the rows that teach only."""
    assert selection.inputs is not None
    assert selection.rows is not None
    first, last = packing.starts[:, selection.rows], (selection.rows + 1).expand(packing.starts.shape[0], -1)
    lse = attention_lse(*inputs, first, last, scale)
    return indexer_loss_visible(tuple(selection.inputs), (*inputs, lse), first, last, scale)


def _up_projections(up: Tensor, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Of keys [H, nope, rank] and of values [H, v, rank]."""
    per_head = up.unflatten(0, (config.num_attention_heads, -1))
    key, value = per_head.split([config.qk_nope_head_dim, config.v_head_dim], dim=1)
    return key, value
