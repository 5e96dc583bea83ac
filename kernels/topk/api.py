"""Deterministic selection of the k best keys of each query.

The indexer's ReLU makes plateaus of equal scores (exact zeros). GLM-5 (section 3.2) reports that reinforcement
learning collapses when they are broken at random, so ties always go to the lower index.
"""

import torch
from torch import Tensor

from kernels import launch
from kernels.topk import cpu, operator, reference


def topk_mask(scores: Tensor, k: int) -> Tensor:
    """True at the k largest entries of each row of scores [..., S] (masked keys hold -inf and are never selected)."""
    _require_positive(k)
    return reference.topk_mask(scores, k)


def topk_indices(scores: Tensor, k: int) -> Tensor:
    """The selection of `topk_mask` as ascending indices [..., min(k, S)] int64, padded at the end with -1."""
    _require_positive(k)
    return reference.topk_indices(scores, k)


def select_keys(scores: Tensor, first: Tensor, last: Tensor, k: int) -> Tensor:
    """Each row's k best keys within its half-open range [first, last): indices [..., k] int32.

    scores [..., S] fp32, first and last [...] int64. Ascending, padded at the end with -1.
    """
    _require_positive(k)
    if first.shape != scores.shape[:-1] or last.shape != first.shape:
        raise ValueError(
            f"select_keys got scores {tuple(scores.shape)} but ranges {tuple(first.shape)} and {tuple(last.shape)}."
        )
    if launch.on_gpu(scores):
        return operator.select_keys(scores.float(), first, last, k)  # type: ignore[no-any-return]
    chosen = cpu if cpu.available(scores) else reference
    return chosen.select_keys(scores, first, last, k)


@torch.no_grad()
def select_keys_fused(query: Tensor, key: Tensor, weights: Tensor, first: Tensor, last: Tensor, k: int) -> Tensor:
    """`select_keys` of the index scores, which are never kept: indices [B, T, k] int32, no gradient.

    query [B, T, H, D], key [B, S, D], weights [B, T, H] as `index_scores` takes them; first and last [B, T] integers.
    Raises ValueError when shapes do not belong together or k is less than 1.
    """
    _require_positive(k)
    if query.shape[:3] != weights.shape or key.shape != (query.shape[0], key.shape[1], query.shape[3]):
        raise ValueError(
            f"select_keys_fused got query {tuple(query.shape)}, key {tuple(key.shape)} and weights "
            f"{tuple(weights.shape)}, but needs [B, T, H, D], [B, S, D] and [B, T, H]."
        )
    if first.shape != query.shape[:2] or last.shape != first.shape:
        raise ValueError(
            f"select_keys_fused got queries {tuple(query.shape)} but ranges {tuple(first.shape)} and "
            f"{tuple(last.shape)}."
        )
    if launch.on_gpu(query) and launch.tiles(query.shape[-1]):
        return operator.select_keys_fused(query, key, weights, first, last, k)  # type: ignore[no-any-return]
    return operator.select_in_blocks(query, key, weights, first, last, k)


def _require_positive(k: int) -> None:
    if k < 1:
        raise ValueError(f"Top-k selection needs k of at least 1, but got {k}.")
