"""Routed experts on one machine: tokens sorted by expert, one pair of matrix products an expert, backward by hand."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class GroupedExperts(torch.autograd.Function):
    """Writes every expert's rows into one buffer: no concatenation, no index_put, no padding."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, experts: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        """Keeps the sorted rows and what the backward pass needs of each product."""
        tokens, choices = experts.shape
        flat = experts.flatten()
        order = flat.argsort(stable=True)
        slot = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=order.device))
        bounds = torch.bincount(flat, minlength=gate_up.shape[0]).cumsum(0).tolist()
        inner = gate_up.shape[1] // 2
        rows = x.index_select(0, order // choices)
        wide = _per_expert(rows, gate_up.transpose(1, 2), bounds)
        gate = wide[:, :inner]
        active = F.silu(gate) * wide[:, inner:]
        out = _per_expert(active, down.transpose(1, 2), bounds)
        chosen = out.index_select(0, slot).view(tokens, choices, -1)
        ctx.save_for_backward(rows, wide, active, chosen, order, slot, weights, gate_up, down)
        ctx.bounds = bounds
        return torch.bmm(weights.unsqueeze(1), chosen).squeeze(1)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        """Gradients of x, weights, gate_up and down."""
        rows, wide, active, chosen, order, slot, weights, gate_up, down = ctx.saved_tensors
        grad, inner, choices = grads[0].to(chosen.dtype), wide.shape[1] // 2, weights.shape[1]
        grad_weights = torch.bmm(chosen, grad.unsqueeze(2)).squeeze(2)
        grad_out = grad.index_select(0, order // choices) * weights.flatten()[order, None]
        grad_active = _per_expert(grad_out, down, ctx.bounds)
        grad_down = _outer_per_expert(grad_out, active, ctx.bounds, down)
        grad_wide = _swiglu_backward(wide, grad_active, inner)
        grad_gate_up = _outer_per_expert(grad_wide, rows, ctx.bounds, gate_up)
        grad_rows = _per_expert(grad_wide, gate_up, ctx.bounds)
        grad_x = grad_rows.index_select(0, slot).view(-1, choices, grad_rows.shape[1]).sum(1)
        return grad_x, None, grad_weights, grad_gate_up, grad_down


def _per_expert(rows: Tensor, matrices: Tensor, bounds: list[int]) -> Tensor:
    """rows[group of e] @ matrices[e] for every expert e; bounds[e] is the end of its group."""
    out = rows.new_empty(rows.shape[0], matrices.shape[2])
    for expert, (start, end) in enumerate(zip([0, *bounds], bounds, strict=False)):
        torch.mm(rows[start:end], matrices[expert], out=out[start:end])
    return out


def _outer_per_expert(left: Tensor, right: Tensor, bounds: list[int], like: Tensor) -> Tensor:
    """left[group].T @ right[group] for every expert: the gradient of its matrix."""
    out = torch.empty_like(like)
    for expert, (start, end) in enumerate(zip([0, *bounds], bounds, strict=False)):
        torch.mm(left[start:end].t(), right[start:end], out=out[expert])
    return out


def _swiglu_backward(wide: Tensor, grad_active: Tensor, inner: int) -> Tensor:
    """Gradient of silu(gate) * up with respect to [gate, up]."""
    gate, up = wide[:, :inner], wide[:, inner:]
    sigmoid = torch.sigmoid(gate)
    silu = gate * sigmoid
    grad_wide = torch.empty_like(wide)
    torch.mul(grad_active, silu, out=grad_wide[:, inner:])
    slope = sigmoid + silu * (1 - sigmoid)
    torch.mul(grad_active * up, slope, out=grad_wide[:, :inner])
    return grad_wide


def grouped_experts(x: Tensor, experts: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """The weighted sum of the chosen experts' outputs for each token."""
    return GroupedExperts.apply(x, experts, weights, gate_up, down)  # type: ignore[no-untyped-call,no-any-return]
