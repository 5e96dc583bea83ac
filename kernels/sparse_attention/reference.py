"""Attention over a selected set of keys in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """softmax(query . key * scale) . value; `mask` [B, T, S] says which keys each query sees, None is causal."""
    width = value.shape[-1]
    if width < key.shape[-1]:  # the fast kernels want one head size
        value = F.pad(value, (0, key.shape[-1] - width))
    if mask is None:
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
    else:
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask.unsqueeze(1), scale=scale)
    return out[..., :width]


def attention_distribution(query: Tensor, key: Tensor, mask: Tensor, scale: float) -> Tensor:
    """The attention weights averaged over heads, [B, R, S] fp32."""
    scores = torch.matmul(query.float() * scale, key.float().transpose(-1, -2))
    scores.masked_fill_(~mask.unsqueeze(1), -torch.inf)
    return scores.softmax(-1).mean(1)
