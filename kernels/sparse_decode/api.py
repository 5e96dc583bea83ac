"""Sparse attention of one decoding step, from a paged cache (paging as in vLLM, arXiv 2309.06180)."""

import torch
from torch import Tensor

from kernels.sparse_decode import operator


def sparse_decode(
    query: Tensor, pages: Tensor, page_table: Tensor, index: Tensor, scale: float, value_dim: int
) -> tuple[Tensor, Tensor]:
    """MLA in its multi-query form for one new token a sequence: (out [B, H, value_dim], lse [B, H] fp32).

    query [B, H, D] (latent part first, then the rotary part), pages [P, page, D], whose first `value_dim` columns are
    the values too; page_table [B, N] int32: position s of sequence b lies in row s % page of page
    page_table[b, s // page]; index [B, K] int32: the positions a sequence attends to, each at most once and below
    N * page (not checked), -1 where fewer than K are listed. `lse` is the natural logarithm of the sum of exp(score).
    A sequence that lists no position gets zeros and -inf. Several new tokens of a sequence are several rows with the
    same row of the page table. There is no gradient. value_dim and D - value_dim are powers of two (16 at least) where
    Triton runs. Raises ValueError when shapes or types do not belong together.
    """
    batch = {query.shape[0], page_table.shape[0], index.shape[0]}
    dims = (query.dim(), pages.dim(), page_table.dim(), index.dim())
    if dims != (3, 3, 2, 2) or len(batch) > 1 or query.shape[-1] != pages.shape[-1]:
        raise ValueError(
            f"sparse_decode got query {tuple(query.shape)}, pages {tuple(pages.shape)}, page_table "
            f"{tuple(page_table.shape)} and index {tuple(index.shape)}, but needs [B, H, D], [P, page, D], [B, N] and "
            "[B, K]."
        )
    if query.dtype != pages.dtype:
        raise ValueError(f"sparse_decode got a query of {query.dtype} and pages of {pages.dtype}; it needs one type.")
    if (index.dtype, page_table.dtype) != (torch.int32, torch.int32) or not 0 < value_dim < query.shape[-1]:
        raise ValueError(
            f"sparse_decode got an index of {index.dtype}, a page_table of {page_table.dtype} and value_dim "
            f"{value_dim}; it needs int32 twice and a value_dim between 0 and {query.shape[-1]}."
        )
    out, lse = operator.sparse_decode(query, pages, page_table, index, scale, value_dim)
    return out, lse
