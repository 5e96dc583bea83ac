"""A decoding step's sparse attention as a `torch.library` operator, so that a compiler sees one node."""

import torch
from torch import Tensor

from kernels import launch
from kernels.sparse_decode import reference


@torch.library.custom_op("longhaul::sparse_decode", mutates_args=())
def sparse_decode(
    query: Tensor, pages: Tensor, page_table: Tensor, index: Tensor, scale: float, value_dim: int
) -> tuple[Tensor, Tensor]:
    """(out [B, H, value_dim], lse [B, H] fp32) of query [B, H, D], pages [P, page, D], index [B, K]."""
    if launch.runs(query, pages, page_table, index):
        from kernels.sparse_decode import triton

        return triton.forward(query, pages, page_table, index, scale, value_dim)
    return reference.sparse_decode(query, pages, page_table, index, scale, value_dim)


@sparse_decode.register_fake
def _(
    query: Tensor, pages: Tensor, page_table: Tensor, index: Tensor, scale: float, value_dim: int
) -> tuple[Tensor, Tensor]:
    lse = torch.float64 if query.dtype == torch.float64 else torch.float32
    return query.new_empty(*query.shape[:2], value_dim), query.new_empty(query.shape[:2], dtype=lse)
