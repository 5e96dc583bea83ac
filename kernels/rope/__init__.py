"""Rotary position embedding."""

from kernels.rope.api import apply_rope, rope_table

__all__ = ["apply_rope", "rope_table"]
