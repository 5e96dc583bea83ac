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


def visible(first: Tensor, last: Tensor, keys: int) -> Tensor:
    """The half-open ranges [B, T] as a mask [B, T, keys]."""
    key = torch.arange(keys, device=first.device)
    return (key >= first.unsqueeze(-1)) & (key < last.unsqueeze(-1))


def divergence(scores: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over rows of KL(teacher || softmax(scores)) and its slope; scores [..., N] hold -inf where none is seen."""
    seen = scores > -torch.inf
    student = scores.masked_fill(~seen.any(-1, keepdim=True), 0.0).log_softmax(-1)
    teacher = teacher.masked_fill(~seen, 0.0)
    parts = torch.xlogy(teacher, teacher) - teacher * student.masked_fill(~seen, 0.0)
    slope = student.exp().masked_fill(~seen, 0.0) * teacher.sum(-1, keepdim=True) - teacher
    rows = scores[..., 0].numel()
    return parts.sum() / rows, slope / rows


def teacher(query: Tensor, latent: Tensor, lse: Tensor, scale: float) -> Tensor:
    """mean over heads of exp(scale * q . k - lse): [B, R, S] of query [B, R, H, D], latent [B, S, D], lse [B, R, H]."""
    scores = torch.einsum("brhd,bsd->brhs", query.float(), latent.float()) * scale
    return (scores - lse.unsqueeze(-1)).exp().mean(2)


def gathered(values: Tensor, index: Tensor) -> Tensor:
    """The values [B, R, S] at the listed keys [B, R, K]; what stands at -1 means nothing."""
    return values.gather(-1, index.clamp(min=0).long())


def attention_lse(query: Tensor, latent: Tensor, first: Tensor, last: Tensor, scale: float) -> Tensor:
    """log sum exp(scale * q . k) over the visible keys, [B, R, H]; query [B, R, H, D], latent [B, S, D]."""
    scores = torch.einsum("brhd,bsd->brhs", query, latent) * scale
    seen = visible(first, last, latent.shape[1]).unsqueeze(2)
    lse = scores.masked_fill(~seen, -torch.inf).logsumexp(-1)
    return lse if lse.dtype == torch.float64 else lse.float()
