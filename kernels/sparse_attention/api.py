"""Multi-head attention of each query to its own set of keys (DeepSeek-V3.2, section 2.1, equation 2)."""

import torch
from torch import Tensor

from kernels.precision import exact
from kernels.sparse_attention import cpu, reference
from kernels.sparse_attention.pieces import Pieces


def masked_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Attention output [B, H, T, Dv].

    query [B, H, T, D], key [B, H, S, D], value [B, H, S, Dv]; mask [B, T, S] is True at the keys a query may see
    (the same for all heads, at least one a query), or None for causal attention with T = S.
    """
    if mask is not None and mask.shape != (query.shape[0], query.shape[2], key.shape[2]):
        raise ValueError(
            f"masked_attention got a mask of shape {tuple(mask.shape)} for queries {tuple(query.shape)} "
            f"and keys {tuple(key.shape)}."
        )
    return reference.masked_attention(query, key, value, mask, scale)


def packed_attention(query: Tensor, key: Tensor, value: Tensor, pieces: Pieces | None, scale: float) -> Tensor:
    """Causal attention inside each document: [B, H, T, Dv]; every row is one document where pieces is None.

    query and key [B, H, T, D], value [B, H, T, Dv]. Raises ValueError when the pieces are not of these tokens.
    """
    if pieces is None:
        return masked_attention(query, key, value, None, scale)
    if pieces.slot.numel() != query.shape[0] * query.shape[2]:
        raise ValueError(
            f"packed_attention got pieces of {pieces.slot.numel()} tokens for queries {tuple(query.shape)}."
        )
    return reference.packed_attention(query, key, value, pieces, scale)


def listed_attention(query: Tensor, key: Tensor, value: Tensor, indices: Tensor, scale: float) -> Tensor:
    """Attention of each query to the keys listed for it, the same for all heads: [B, H, T, Dv].

    query [B, H, T, D], key [B, H, S, D], value [B, H, S, Dv]; indices [B, T, K] int32, at least one a query, padded
    at the end with -1. Raises ValueError when the list does not belong to the queries.
    """
    if indices.shape[:2] != (query.shape[0], query.shape[2]):
        raise ValueError(
            f"listed_attention got indices of shape {tuple(indices.shape)} for queries {tuple(query.shape)}."
        )
    chosen = cpu if cpu.available(query, value) else reference
    return chosen.listed_attention(query, key, value, indices, scale)


def listed_mask(indices: Tensor, keys: int) -> Tensor:
    """The list [B, T, K] as a mask [B, T, keys] bool."""
    return reference.listed_mask(indices, keys)


@torch.no_grad()
def attention_distribution(query: Tensor, key: Tensor, mask: Tensor, scale: float) -> Tensor:
    """The teacher of the indexer: attention summed over heads and L1-normalised, [B, R, S] fp32, no gradient.

    Computed in fp32 under autocast too.
    """
    with exact(query):
        return reference.attention_distribution(query, key, mask, scale)
