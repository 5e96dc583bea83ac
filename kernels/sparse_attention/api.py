"""Multi-head attention of each query to its own set of keys (DeepSeek-V3.2, section 2.1, equation 2)."""

import torch
from torch import Tensor

from kernels import launch
from kernels.precision import exact
from kernels.sparse_attention import cpu, operator, reference
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


def fits(x: Tensor, value_dim: int, rotary_dim: int) -> bool:
    """Whether the Triton kernels of `sparse_mla` take latents of these two parts on the device of x."""
    sizes = launch.tiles(value_dim // 4) and launch.tiles(rotary_dim) and value_dim % 4 == 0
    return sizes and launch.is_roomy(x)


def sparse_mla(query: Tensor, latent: Tensor, index: Tensor, scale: float, value_dim: int) -> tuple[Tensor, Tensor]:
    """MLA in its multi-query form over the keys listed for each query: (out [B, T, H, value_dim], lse [B, T, H] fp32).

    query [B, T, H, D] (latent part first, then the rotary part), latent [B, S, D], whose first `value_dim` columns are
    the values too; index [B, T, K] int32, each key below S (not checked) and at most once a query, -1 where fewer than
    K are listed. `lse` is the natural logarithm of the sum of exp(score) and carries no gradient. A query that lists no
    key gets zeros and -inf. value_dim and D - value_dim are powers of two (64 and 16 at least) where Triton runs.
    Raises ValueError when shapes or types do not belong together.
    """
    wants = (*query.shape[:2], index.shape[-1])
    if query.shape[0] != latent.shape[0] or query.shape[-1] != latent.shape[-1] or index.shape != wants:
        raise ValueError(
            f"sparse_mla got query {tuple(query.shape)}, latent {tuple(latent.shape)} and index {tuple(index.shape)}, "
            "but needs [B, T, H, D], [B, S, D] and [B, T, K]."
        )
    if query.dtype != latent.dtype:
        raise ValueError(f"sparse_mla got a query of {query.dtype} and a latent of {latent.dtype}; it needs one type.")
    if index.dtype != torch.int32 or not 0 < value_dim < query.shape[-1]:
        raise ValueError(
            f"sparse_mla got an index of {index.dtype} and value_dim {value_dim}; it needs int32 and a value_dim "
            f"between 0 and {query.shape[-1]}."
        )
    out, lse = operator.sparse_mla(query, latent, index, scale, value_dim)
    return out, lse


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
