"""Routed experts as grouped matrix products: two forward, four back, nothing padded, and no number waited for.

The products are `torch.nn.functional.grouped_mm`: CUTLASS kernels on Hopper and Blackwell in bfloat16. Elsewhere it is
a loop over the experts, which makes the host wait for the sizes of the groups of a GPU, but lets all of this run, and
be tested, on a CPU too; a kernel of ours would be one more to keep, and only a GPU could show it to be faster. The ends
of the groups stay on the device. Every operand's contiguous dimension is one of the model's, never one of the groups,
so that groups need no alignment; the model's widths must be multiples of 16 bytes. On Blackwell the gradient of an
expert without a row has been reported to hold anything but zeros (PyTorch issue 172439), so it is cleared here.
"""

from __future__ import annotations

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import launch
from kernels.grouped_experts import gates


def forward(
    x: Tensor, experts: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(result [N, D], gates and ups [M, 2F], order [M], ends [E]) with M = N * k rows sorted by expert.

    order lists the choices (token * k + number) by expert; ends [E] int32 is where each expert's rows end.
    """
    flat = experts.flatten()
    order = flat.argsort(stable=True)
    numbers = torch.arange(gate_up.shape[0], device=x.device)
    ends = torch.searchsorted(flat[order], numbers, right=True, out_int32=True)
    wide = F.grouped_mm(x.index_select(0, order // experts.shape[1]), gate_up.transpose(1, 2), offs=ends)
    active = _gates(wide).weighted_swiglu(wide, weights.flatten()[order])
    out = F.grouped_mm(active, down.transpose(1, 2), offs=ends)
    return _sum_choices(out, order, experts.shape[1]), wide, order, ends


def backward(
    x: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor, wide: Tensor, order: Tensor, ends: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weights, gate_up and down."""
    choices, chosen = weights.shape[1], _gates(wide)
    tokens, sorted_weights = order // choices, weights.flatten()[order]
    grad_out = grad.index_select(0, tokens)
    grad_active = F.grouped_mm(grad_out, down, offs=ends)
    grad_wide, active, by_row = chosen.weighted_swiglu_gradients(wide, sorted_weights, grad_active)
    grad_down = F.grouped_mm(grad_out.t(), active, offs=ends)
    grad_gate_up = F.grouped_mm(grad_wide.t(), x.index_select(0, tokens), offs=ends)
    for empty in (grad_down, grad_gate_up):
        chosen.clear_empty(empty, ends)
    grad_x = _sum_choices(F.grouped_mm(grad_wide, gate_up, offs=ends), order, choices)
    grad_weights = torch.empty_like(by_row).scatter_(0, order, by_row).view(weights.shape)
    return grad_x, grad_weights, grad_gate_up, grad_down


def _sum_choices(rows: Tensor, order: Tensor, choices: int) -> Tensor:
    """rows [M, D] of the choices sorted by expert, summed for each token: [N, D], in the same order every time."""
    slot = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=order.device))
    return rows.index_select(0, slot).view(-1, choices, rows.shape[1]).sum(1)


def _gates(wide: Tensor) -> ModuleType:
    """The module whose functions stand between the products."""
    if not launch.runs(wide):
        return gates
    from kernels.grouped_experts import triton

    return triton
