"""Deterministic selection of keys."""

from kernels.topk.api import select_keys, topk_indices, topk_mask

__all__ = ["select_keys", "topk_indices", "topk_mask"]
