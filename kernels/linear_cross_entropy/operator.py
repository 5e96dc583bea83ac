"""Cross-entropy of a linear layer as `torch.library` operators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels import launch
from kernels.linear_cross_entropy import formula


@torch.library.custom_op("longhaul::linear_cross_entropy", mutates_args=())
def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int, z_loss: float
) -> tuple[Tensor, Tensor]:
    """(losses [N], logsumexp of the logits [N]), fp32; the second carries no gradient."""
    if launch.runs(hidden, weight, targets):
        from kernels.linear_cross_entropy import triton

        return triton.forward(hidden, weight, targets, ignore_index, z_loss)
    return formula.losses(hidden, weight, targets, ignore_index, z_loss)


@torch.library.custom_op("longhaul::linear_cross_entropy_backward", mutates_args=())
def linear_cross_entropy_backward(
    hidden: Tensor, weight: Tensor, targets: Tensor, lse: Tensor, grads: Tensor, ignore_index: int, z_loss: float
) -> tuple[Tensor, Tensor]:
    """Gradients of hidden and weight."""
    if launch.runs(hidden, weight, targets):
        from kernels.linear_cross_entropy import triton

        return triton.backward(hidden, weight, targets, lse, grads, ignore_index, z_loss)
    return formula.gradients(hidden, weight, targets, grads, ignore_index, z_loss)


@torch.library.custom_op("longhaul::weighted_cross_entropy", mutates_args=())
def weighted_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, ignore_index: int, z_loss: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(sum of weights * losses, losses [N], and the gradients of hidden and weight); only the first carries a gradient.

    The gradients are made here, and the backward pass only scales them.
    """
    if launch.runs(hidden, weight, targets):
        from kernels.linear_cross_entropy import triton

        losses, *gradients = triton.weighted(hidden, weight, targets, weights, ignore_index, z_loss)
    else:
        losses, _ = formula.losses(hidden, weight, targets, ignore_index, z_loss)
        gradients = list(formula.gradients(hidden, weight, targets, weights.to(losses), ignore_index, z_loss))
    return (losses * weights).sum(), losses, gradients[0], gradients[1]


def _fp32(hidden: Tensor) -> torch.dtype:
    return torch.float64 if hidden.dtype == torch.float64 else torch.float32


@linear_cross_entropy.register_fake
def _(hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int, z_loss: float) -> tuple[Tensor, Tensor]:
    losses = hidden.new_empty(hidden.shape[0], dtype=_fp32(hidden))
    return losses, torch.empty_like(losses)


@linear_cross_entropy_backward.register_fake
def _(
    hidden: Tensor, weight: Tensor, targets: Tensor, lse: Tensor, grads: Tensor, ignore_index: int, z_loss: float
) -> tuple[Tensor, Tensor]:
    return hidden.new_empty(hidden.shape), weight.new_empty(weight.shape)


@weighted_cross_entropy.register_fake
def _(
    hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, ignore_index: int, z_loss: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    losses = hidden.new_empty(hidden.shape[0], dtype=_fp32(hidden))
    return losses.new_empty(()), losses, hidden.new_empty(hidden.shape), weight.new_empty(weight.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.ignore_index, ctx.z_loss = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grads: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    hidden, weight, targets, lse = ctx.saved_tensors
    found = linear_cross_entropy_backward(
        hidden, weight, targets, lse, grads.contiguous(), ctx.ignore_index, ctx.z_loss
    )
    return *found, None, None, None


def _setup_weighted(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(inputs[3], *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _backward_weighted(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    weights, losses, for_hidden, for_weight = ctx.saved_tensors
    for_weights = (losses * grad).to(weights.dtype) if ctx.needs_input_grad[3] else None
    return (
        (for_hidden * grad).to(for_hidden.dtype),
        (for_weight * grad).to(for_weight.dtype),
        None,
        for_weights,
        None,
        None,
    )


linear_cross_entropy.register_autograd(_backward, setup_context=_setup)
weighted_cross_entropy.register_autograd(_backward_weighted, setup_context=_setup_weighted)
