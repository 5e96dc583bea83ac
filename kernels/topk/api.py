"""Deterministic selection of the k best keys of each query.

The indexer's ReLU makes plateaus of equal scores (exact zeros). GLM-5 (section 3.2) reports that reinforcement
learning collapses when they are broken at random, so ties always go to the lower index.
"""

from torch import Tensor

from kernels.topk import reference


def topk_mask(scores: Tensor, k: int) -> Tensor:
    """True at the k largest entries of each row of scores [..., S] (masked keys hold -inf and are never selected)."""
    _require_positive(k)
    return reference.topk_mask(scores, k)


def topk_indices(scores: Tensor, k: int) -> Tensor:
    """The selection of `topk_mask` as ascending indices [..., min(k, S)] int64, padded at the end with -1."""
    _require_positive(k)
    return reference.topk_indices(scores, k)


def _require_positive(k: int) -> None:
    if k < 1:
        raise ValueError(f"Top-k selection needs k of at least 1, but got {k}.")
