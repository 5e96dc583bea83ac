"""What stands between the experts' matrix products as Triton kernels: one read of each operand, arithmetic in fp32.

The router's weight scales the inner activations, which are narrower than the experts' outputs (GLM-5: 2,048 against
6,144), so that the outputs need not be kept for the weights' gradient.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels import launch
from kernels.cases import Case

BLOCK = 2048
WARPS = 4


@triton.jit
def _weighted_swiglu(wide, weights, out, F: tl.constexpr, BF: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BF + tl.arange(0, BF)
    inside = column < F
    gate = tl.load(wide + row * 2 * F + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(wide + row * 2 * F + F + column, mask=inside, other=0.0).to(tl.float32)
    active = gate * tl.sigmoid(gate) * up * tl.load(weights + row).to(tl.float32)
    tl.store(out + row * F + column, active.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _weighted_swiglu_gradients(
    wide, weights, grad, grad_wide, out, grad_weights, F: tl.constexpr, BF: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    weight = tl.load(weights + row).to(tl.float32)
    sums = tl.zeros([BF], tl.float32)
    for start in range(0, F, BF):
        column = start + tl.arange(0, BF)
        inside = column < F
        gate = tl.load(wide + row * 2 * F + column, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(wide + row * 2 * F + F + column, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(grad + row * F + column, mask=inside, other=0.0).to(tl.float32)
        sigmoid = tl.sigmoid(gate)
        silu = gate * sigmoid
        sums += g * silu * up
        pull = g * weight
        for_gate = pull * up * (sigmoid + silu * (1.0 - sigmoid))
        kind = grad_wide.dtype.element_ty
        tl.store(grad_wide + row * 2 * F + column, for_gate.to(kind), mask=inside)
        tl.store(grad_wide + row * 2 * F + F + column, (pull * silu).to(kind), mask=inside)
        tl.store(out + row * F + column, (silu * up * weight).to(out.dtype.element_ty), mask=inside)
    tl.store(grad_weights + row, tl.sum(sums, 0))


@triton.jit
def _clear_empty(grad, ends, size, B: tl.constexpr):
    expert = tl.program_id(0)
    start = tl.load(ends + expert - 1, mask=expert > 0, other=0)
    if start == tl.load(ends + expert):
        base = grad + expert.to(tl.int64) * size
        for first in range(tl.program_id(1) * B, size, tl.num_programs(1) * B):
            at = first + tl.arange(0, B)
            tl.store(base + at, tl.zeros([B], grad.dtype.element_ty), mask=at < size)


@launch.on_device
def weighted_swiglu(wide: Tensor, weights: Tensor) -> Tensor:
    """weights[m] * silu(gate) * up: [M, F]; wide [M, 2F] holds gate and up side by side, weights [M]."""
    rows, inner = wide.shape[0], wide.shape[1] // 2
    out = wide.new_empty(rows, inner)
    block = min(BLOCK, triton.next_power_of_2(inner))
    if rows:
        _weighted_swiglu[(rows, triton.cdiv(inner, block))](wide, weights, out, F=inner, BF=block, num_warps=WARPS)
    return out


@launch.on_device
def weighted_swiglu_gradients(wide: Tensor, weights: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(gradient of wide [M, 2F], weighted_swiglu(wide, weights), gradient of weights [M]); grad [M, F]."""
    rows, inner = grad.shape
    grad_wide, out, grad_weights = torch.empty_like(wide), torch.empty_like(grad), torch.empty_like(weights)
    block = min(BLOCK, triton.next_power_of_2(inner))
    if rows:
        arguments = wide, weights, grad.contiguous(), grad_wide, out, grad_weights
        _weighted_swiglu_gradients[(rows,)](*arguments, F=inner, BF=block, num_warps=WARPS)
    return grad_wide, out, grad_weights


@launch.on_device
def clear_empty(grad: Tensor, ends: Tensor) -> None:
    """Writes zeros to grad[e] [E, A, B] where expert e has no row; ends [E] int32. The other experts cost nothing."""
    size = grad[0].numel()
    _clear_empty[(grad.shape[0], min(8, triton.cdiv(size, BLOCK)))](grad, ends, size, B=BLOCK, num_warps=WARPS)


_COMMON = {"wide": "*bf16", "weights": "*fp32", "out": "*bf16"}
_GRADIENTS = {**_COMMON, "grad": "*bf16", "grad_wide": "*bf16", "grad_weights": "*fp32"}
_CLEAR = {"grad": "*bf16", "ends": "*i32", "size": "i32"}
_SIZES: dict[str, Any] = {"F": 2048, "BF": BLOCK, "num_warps": WARPS}  # GLM-5's experts
CASES = [
    Case("grouped_experts.weighted_swiglu", _weighted_swiglu, _COMMON, _SIZES),
    Case("grouped_experts.weighted_swiglu_gradients", _weighted_swiglu_gradients, _GRADIENTS, _SIZES),
    Case("grouped_experts.clear_empty", _clear_empty, _CLEAR, {"B": BLOCK, "num_warps": WARPS}),
]
