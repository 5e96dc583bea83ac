"""Attention over a selected set of keys in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.precision import exact
from kernels.sparse_attention.pieces import Pieces


def masked_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """softmax(query . key * scale) . value; `mask` [B, T, S] says which keys each query sees, None is causal."""
    width = value.shape[-1]
    if width < key.shape[-1]:  # the fast kernels want one head size
        value = F.pad(value, (0, key.shape[-1] - width))
    seen = None if mask is None else mask.unsqueeze(1)
    with exact(query):  # in the type of its inputs: on a CPU it is slower in bfloat16, forward and backward together
        out = F.scaled_dot_product_attention(query, key, value, seen, is_causal=mask is None, scale=scale)
    return out[..., :width]


def packed_attention(query: Tensor, key: Tensor, value: Tensor, pieces: Pieces, scale: float) -> Tensor:
    """The same, causal in each document of `pieces`."""
    parts = zip(*(pieces.cut(x) for x in (query, key, value)), strict=True)
    return pieces.join([masked_attention(q, k, v, None, scale) for q, k, v in parts], query.shape[0])


def listed_attention(query: Tensor, key: Tensor, value: Tensor, indices: Tensor, scale: float) -> Tensor:
    """The same over a list of keys for each query, [B, T, K] padded with -1."""
    return masked_attention(query, key, value, listed_mask(indices, key.shape[2]), scale)


def listed_mask(indices: Tensor, keys: int) -> Tensor:
    """The list [B, T, K] as a mask [B, T, keys]: padding falls into a column that is cut off."""
    mask = torch.zeros(*indices.shape[:2], keys + 1, dtype=torch.bool, device=indices.device)
    columns = torch.where(indices < 0, keys, indices).long()
    return mask.scatter_(-1, columns, True)[..., :keys]


def attention_distribution(query: Tensor, key: Tensor, mask: Tensor, scale: float) -> Tensor:
    """The attention weights averaged over heads, [B, R, S] fp32."""
    scores = torch.matmul(query.float() * scale, key.float().transpose(-1, -2))
    scores.masked_fill_(~mask.unsqueeze(1), -torch.inf)
    return scores.softmax(-1).mean(1)


def sparse_mla(query: Tensor, latent: Tensor, index: Tensor, scale: float, value_dim: int) -> tuple[Tensor, Tensor]:
    """(out [B, T, H, value_dim], lse [B, T, H] fp32); a query that lists no key gets zeros and -inf."""
    listed = index >= 0  # [B, T, K]
    batch = torch.arange(latent.shape[0], device=latent.device)[:, None, None]
    rows = latent[batch, index.clamp(min=0)]  # [B, T, K, D]
    rows = rows.masked_fill(~listed.unsqueeze(-1), 0.0)
    score = torch.einsum("bthd,btkd->bthk", query, rows) * scale
    score = score if score.dtype == torch.float64 else score.float()
    score = score.masked_fill(~listed.unsqueeze(2), -torch.inf)
    lse = score.logsumexp(-1)
    weight = (score - lse.masked_fill(lse == -torch.inf, 0.0).unsqueeze(-1)).exp()
    out = torch.einsum("bthk,btkv->bthv", weight.to(rows.dtype), rows[..., :value_dim])
    return out, lse
