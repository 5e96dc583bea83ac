"""Deterministic selection of keys."""

from kernels.topk.api import select_keys, select_keys_fused, topk_indices, topk_mask

__all__ = ["select_keys", "select_keys_fused", "topk_indices", "topk_mask"]
