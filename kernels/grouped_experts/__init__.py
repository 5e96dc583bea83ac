"""SwiGLU experts over routed tokens."""

from kernels.grouped_experts.api import grouped_experts

__all__ = ["grouped_experts"]
