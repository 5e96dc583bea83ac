"""Output projection and cross-entropy as one differentiable operation."""

from typing import Any

import torch
from torch import Tensor


class LinearCrossEntropy(torch.autograd.Function):
    """Keeps only the log-probabilities, from which the gradient of the logits is one pass.

    `dtype` is that of the products' operands; softmax and loss are fp32.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """Negative log-probabilities [N]."""
        ctx.dtypes = hidden.dtype, weight.dtype
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        log_probs = torch.log_softmax(hidden @ weight.t(), -1, dtype=torch.float32)
        ctx.save_for_backward(hidden, weight, targets, log_probs)
        return -log_probs.gather(1, targets[:, None]).squeeze(1)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, None, None]:
        """Gradients of hidden and weight."""
        hidden, weight, targets, log_probs = ctx.saved_tensors
        scale = grads[0].float()[:, None]
        slope = log_probs.exp().mul_(scale)  # g * softmax
        slope.scatter_add_(1, targets[:, None], -scale)
        slope = slope.to(hidden.dtype)
        return (slope @ weight).to(ctx.dtypes[0]), (slope.t() @ hidden).to(ctx.dtypes[1]), None, None


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(hidden @ weight.T)[target] per row, fp32."""
    return LinearCrossEntropy.apply(hidden, weight, targets, hidden.dtype)  # type: ignore[no-untyped-call,no-any-return]
