"""Multi-head attention of each query to its own set of keys (DeepSeek-V3.2, section 2.1, equation 2)."""

import torch
from torch import Tensor

from kernels.sparse_attention import reference


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


@torch.no_grad()
def attention_distribution(query: Tensor, key: Tensor, mask: Tensor, scale: float) -> Tensor:
    """The teacher of the indexer: attention summed over heads and L1-normalised, [B, R, S] fp32, no gradient."""
    return reference.attention_distribution(query, key, mask, scale)
