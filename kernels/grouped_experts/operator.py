"""Routed experts by grouped matrix products as `torch.library` operators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.grouped_experts import grouped

Gradients = tuple[Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op("longhaul::grouped_experts", mutates_args=())
def grouped_experts(
    x: Tensor, experts: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(result [N, D], and what the backward pass needs: gates and ups [M, 2F], order [M], ends [E])."""
    return grouped.forward(x, experts, weights, gate_up, down)


@torch.library.custom_op("longhaul::grouped_experts_backward", mutates_args=())
def grouped_experts_backward(
    x: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor, wide: Tensor, order: Tensor, ends: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weights, gate_up and down."""
    return grouped.backward(x, weights, gate_up, down, wide, order, ends, grad)


@grouped_experts.register_fake
def _(x: Tensor, experts: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Gradients:
    order = experts.new_empty(experts.shape[0] * experts.shape[1])
    wide = x.new_empty(order.shape[0], gate_up.shape[1])
    return x.new_empty(x.shape), wide, order, experts.new_empty(gate_up.shape[0], dtype=torch.int32)


@grouped_experts_backward.register_fake
def _(
    x: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor, wide: Tensor, order: Tensor, ends: Tensor, grad: Tensor
) -> Gradients:
    return tuple(t.new_empty(t.shape) for t in (x, weights, gate_up, down))  # type: ignore[return-value]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, _, weights, gate_up, down = inputs
    ctx.save_for_backward(x, weights, gate_up, down, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    for_x, for_weights, for_gate_up, for_down = grouped_experts_backward(*ctx.saved_tensors, grad)
    return for_x, None, for_weights, for_gate_up, for_down


grouped_experts.register_autograd(_backward, setup_context=_setup)
