"""Output projection and cross-entropy in one."""

from kernels.linear_cross_entropy.api import linear_cross_entropy, weighted_cross_entropy

__all__ = ["linear_cross_entropy", "weighted_cross_entropy"]
