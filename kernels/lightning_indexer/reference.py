"""The lightning indexer's scores in plain PyTorch."""

import torch
from torch import Tensor


def index_scores(query: Tensor, key: Tensor, weights: Tensor) -> Tensor:
    """sum_h weights[t,h] * relu(query[t,h] . key[s]) * D^-1/2, in fp32: [B, T, S]."""
    batch, length, heads, dim = query.shape
    flat = query.float().reshape(batch, length * heads, dim)
    products = torch.bmm(flat, key.float().transpose(1, 2)).relu_()  # [B, T*H, S]
    scaled = weights.float() * dim**-0.5
    return torch.matmul(scaled.unsqueeze(2), products.view(batch, length, heads, -1)).squeeze(2)
