"""The selection of keys as `torch.library` operators."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels import launch
from kernels.lightning_indexer import index_scores
from kernels.topk import cpu, reference

BLOCK = 256  # queries scored at once where the scores are not fused: bounds the memory


@torch.library.custom_op("longhaul::select_keys", mutates_args=())
def select_keys(scores: Tensor, first: Tensor, last: Tensor, k: int) -> Tensor:
    """As `reference.select_keys`: [..., k] int32."""
    if launch.runs(scores):
        from kernels.topk import triton

        return triton.select_keys(scores, first, last, k)
    chosen = cpu if cpu.available(scores) else reference
    return chosen.select_keys(scores, first, last, k)


@torch.library.custom_op("longhaul::select_keys_fused", mutates_args=())
def select_keys_fused(query: Tensor, key: Tensor, weights: Tensor, first: Tensor, last: Tensor, k: int) -> Tensor:
    """The selection from the index scores of query [B, T, H, D], key [B, S, D], weights [B, T, H]: [B, T, k] int32."""
    if launch.runs(query, key, weights):
        from kernels.topk import triton

        return triton.select_keys_fused(query, key, weights, first, last, k)
    return select_in_blocks(query, key, weights, first, last, k)


def select_in_blocks(query: Tensor, key: Tensor, weights: Tensor, first: Tensor, last: Tensor, k: int) -> Tensor:
    """The same, a block of queries after the other, without Triton."""
    lists = []
    for start in range(0, query.shape[1], BLOCK):
        rows = slice(start, start + BLOCK)
        scores, limits = (
            index_scores(query[:, rows], key, weights[:, rows]),
            (first[:, rows].long(), last[:, rows].long()),
        )
        lists.append((cpu if cpu.available(scores) else reference).select_keys(scores, *limits, k))
    return torch.cat(lists, dim=1)


@select_keys.register_fake
def _(scores: Tensor, first: Tensor, last: Tensor, k: int) -> Tensor:
    return scores.new_empty(*scores.shape[:-1], k, dtype=torch.int32)


@select_keys_fused.register_fake
def _(query: Tensor, key: Tensor, weights: Tensor, first: Tensor, last: Tensor, k: int) -> Tensor:
    return query.new_empty(*query.shape[:2], k, dtype=torch.int32)
