"""Index scores of DeepSeek Sparse Attention (DeepSeek-V3.2, section 2.1, equation 1)."""

from torch import Tensor

from kernels.lightning_indexer import reference
from kernels.precision import exact


def index_scores(query: Tensor, key: Tensor, weights: Tensor) -> Tensor:
    """How much query token t wants key token s: [B, T, S] fp32, unmasked, and computed in fp32 under autocast too.

    query [B, T, H, D], key [B, S, D] (one key head), weights [B, T, H] (already multiplied by H^-1/2).
    Raises ValueError when the shapes do not belong together.
    """
    if query.shape[:3] != weights.shape or query.shape[-1] != key.shape[-1] or query.shape[0] != key.shape[0]:
        raise ValueError(
            f"index_scores got query {tuple(query.shape)}, key {tuple(key.shape)} and weights {tuple(weights.shape)}, "
            "but needs [B, T, H, D], [B, S, D] and [B, T, H]."
        )
    with exact(query):
        return reference.index_scores(query, key, weights)


def index_scores_gradients(query: Tensor, key: Tensor, weights: Tensor, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `index_scores` with respect to query, key and weights; slope [B, T, S] is that of the scores.

    For losses that are differentiated block by block, so that no [B, T, S] buffer outlives its block.
    """
    if slope.shape != (*query.shape[:2], key.shape[1]):
        raise ValueError(
            f"index_scores_gradients got a slope of shape {tuple(slope.shape)} for queries {tuple(query.shape)} and "
            f"keys {tuple(key.shape)}."
        )
    with exact(query):
        return reference.index_scores_gradients(query, key, weights, slope)
