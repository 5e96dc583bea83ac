"""Attention over selected keys."""

from kernels.sparse_attention.api import attention_distribution, listed_attention, listed_mask, masked_attention

__all__ = ["attention_distribution", "listed_attention", "listed_mask", "masked_attention"]
