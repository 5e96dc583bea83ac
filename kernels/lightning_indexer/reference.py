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


def index_scores_gradients(query: Tensor, key: Tensor, weights: Tensor, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key and weights, where slope [B, T, S] is that of the scores."""
    batch, length, heads, dim = query.shape
    flat, wide_key = query.float().reshape(batch, length * heads, dim), key.float()
    products = torch.bmm(flat, wide_key.transpose(1, 2)).relu_()  # [B, T*H, S]
    per_head = products.view(batch, length, heads, -1)
    grad_weights = torch.matmul(per_head, slope.unsqueeze(-1)).squeeze(-1) * dim**-0.5  # [B, T, H]
    scaled = weights.float() * dim**-0.5
    grad_products = (products > 0).view_as(per_head) * slope.unsqueeze(2)
    grad_products = grad_products.mul_(scaled.unsqueeze(-1)).view_as(products)
    grad_query = torch.bmm(grad_products, wide_key).view_as(query)
    grad_key = torch.bmm(grad_products.transpose(1, 2), flat)
    return grad_query.to(query.dtype), grad_key.to(key.dtype), grad_weights.to(weights.dtype)
