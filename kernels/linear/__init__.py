"""A linear layer without bias."""

from kernels.linear.api import linear

__all__ = ["linear"]
