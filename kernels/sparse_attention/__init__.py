"""Attention over selected keys."""

from kernels.sparse_attention.api import (
    attention_distribution,
    fits,
    listed_attention,
    listed_mask,
    masked_attention,
    packed_attention,
    sparse_mla,
)
from kernels.sparse_attention.pieces import Pieces

__all__ = [
    "Pieces",
    "attention_distribution",
    "fits",
    "listed_attention",
    "listed_mask",
    "masked_attention",
    "packed_attention",
    "sparse_mla",
]
