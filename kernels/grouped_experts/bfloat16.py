"""Routed experts whose matrix products have operands rounded to bfloat16; gates, weights and sums stay fp32."""

import torch
from torch import Tensor

from kernels.grouped_experts.reference import GroupedExperts

# oneDNN makes a kernel for every new shape, and the sizes of groups change with every batch: without padding that
# costs more than bfloat16 wins.
MULTIPLE = 64


def grouped_experts(x: Tensor, experts: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """As `reference.grouped_experts`; for speed see `kernels.linear.bfloat16`."""
    return GroupedExperts.apply(x, experts, weights, gate_up, down, torch.bfloat16, MULTIPLE)  # type: ignore[no-untyped-call,no-any-return]
