"""Routed experts on one machine: tokens sorted by expert, one pair of matrix products an expert, backward by hand."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.grouped_experts.groups import Groups


class GroupedExperts(torch.autograd.Function):
    """Writes every expert's rows into one buffer: no concatenation, no index_put.

    `dtype` is that of the products' operands; gates and sums are in the type of x. Every expert's group of rows is
    padded to a multiple of `multiple`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        experts: Tensor,
        weights: Tensor,
        gate_up: Tensor,
        down: Tensor,
        dtype: torch.dtype,
        multiple: int,
    ) -> Tensor:
        """Keeps the sorted rows and what the backward pass needs of each product."""
        groups = Groups.of(experts, gate_up.shape[0], multiple)
        rows, gate_up, down = x.to(dtype).index_select(0, groups.source), gate_up.to(dtype), down.to(dtype)
        wide = _per_expert(rows, gate_up.transpose(1, 2), groups.bounds).to(x.dtype)
        gate, up = wide.chunk(2, dim=1)
        active = (F.silu(gate) * up).to(dtype)
        out = _per_expert(active, down.transpose(1, 2), groups.bounds).to(x.dtype)
        chosen = out.index_select(0, groups.slot).view(*experts.shape, -1)
        ctx.save_for_backward(rows, wide, active, chosen, groups.source, groups.slot, weights, gate_up, down)
        ctx.bounds = groups.bounds
        return torch.bmm(weights.unsqueeze(1), chosen).squeeze(1)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        """Gradients of x, weights, gate_up and down."""
        rows, wide, active, chosen, source, slot, weights, gate_up, down = ctx.saved_tensors
        groups, grad, dtype = Groups(source, slot, ctx.bounds), grads[0].to(chosen.dtype), rows.dtype
        grad_weights = torch.bmm(chosen, grad.unsqueeze(2)).squeeze(2)
        grad_out = (grad.index_select(0, source) * groups.spread(weights)[:, None]).to(dtype)
        grad_active = _per_expert(grad_out, down, groups.bounds).to(wide.dtype)
        grad_down = _outer_per_expert(grad_out, active, groups.bounds, down).to(wide.dtype)
        grad_wide = _swiglu_backward(wide, grad_active).to(dtype)
        grad_gate_up = _outer_per_expert(grad_wide, rows, groups.bounds, gate_up).to(wide.dtype)
        grad_rows = _per_expert(grad_wide, gate_up, groups.bounds).to(wide.dtype)
        grad_x = grad_rows.index_select(0, slot).view(*weights.shape, -1).sum(1)
        return grad_x, None, grad_weights, grad_gate_up, grad_down, None, None


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


def _swiglu_backward(wide: Tensor, grad_active: Tensor) -> Tensor:
    """Gradient of silu(gate) * up with respect to [gate, up]."""
    gate, up = wide.chunk(2, dim=1)
    sigmoid = torch.sigmoid(gate)
    silu = gate * sigmoid
    grad_wide = torch.empty_like(wide)
    grad_gate, grad_up = grad_wide.chunk(2, dim=1)
    torch.mul(grad_active, silu, out=grad_up)
    slope = sigmoid + silu * (1 - sigmoid)
    torch.mul(grad_active * up, slope, out=grad_gate)
    return grad_wide


def grouped_experts(x: Tensor, experts: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """The weighted sum of the chosen experts' outputs for each token."""
    return GroupedExperts.apply(x, experts, weights, gate_up, down, x.dtype, 1)  # type: ignore[no-untyped-call,no-any-return]
