"""A decoding step's sparse attention in plain PyTorch: the listed rows are gathered through the page table."""

import torch
from torch import Tensor

from kernels.sparse_attention import reference as sparse_attention


def sparse_decode(
    query: Tensor, pages: Tensor, page_table: Tensor, index: Tensor, scale: float, value_dim: int
) -> tuple[Tensor, Tensor]:
    """(out [B, H, value_dim], lse [B, H] fp32); a sequence that lists no position gets zeros and -inf."""
    rows = gathered(pages, page_table, index)
    order = torch.arange(index.shape[1], dtype=torch.int32, device=index.device).expand_as(index)
    listed = torch.where(index >= 0, order, -1).unsqueeze(1)
    out, lse = sparse_attention.sparse_mla(query.unsqueeze(1), rows, listed, scale, value_dim)
    return out.squeeze(1), lse.squeeze(1)


def gathered(pages: Tensor, page_table: Tensor, index: Tensor) -> Tensor:
    """The listed rows of the cache, [B, K, D]; padding reads position 0."""
    position, size = index.clamp(min=0).long(), pages.shape[1]
    page = page_table.long().gather(1, position // size)
    return pages.flatten(0, 1)[page * size + position % size]
