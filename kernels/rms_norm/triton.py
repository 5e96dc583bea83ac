"""Root-mean-square normalisation as Triton kernels: rows in any type, arithmetic in fp32, one read of each operand.

Every program of the backward pass walks over rows and sums its own part of the weight's gradient; the parts are added
afterwards, so that no two programs write to one place and the sum is the same in every run.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels import launch
from kernels.cases import Case

TILE = 4096  # elements a program takes at once where rows are short
PROGRAMS_PER_PROCESSOR = 2  # of the backward pass: the registers of a processor hold one of wide rows, or two


@triton.jit
def _forward(x, weight, out, scale, rows, stride, eps, D: tl.constexpr, BD: tl.constexpr, BR: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)
    column = tl.arange(0, BD)
    inside = (row < rows)[:, None] & (column < D)[None, :]
    wide = tl.load(x + row[:, None] * stride + column[None, :], mask=inside, other=0.0).to(tl.float32)  # [BR, BD]
    w = tl.load(weight + column, mask=column < D, other=0.0).to(tl.float32)
    r = tl.rsqrt(tl.sum(wide * wide, 1) / D + eps)
    normed = (wide * r[:, None] * w[None, :]).to(out.dtype.element_ty)
    tl.store(out + row[:, None] * D + column[None, :], normed, mask=inside)
    tl.store(scale + row, r, mask=row < rows)


@triton.jit
def _backward(
    x, weight, scale, grad, grad_x, parts, rows, stride, D: tl.constexpr, BD: tl.constexpr, BR: tl.constexpr
):  # fmt: skip
    column = tl.arange(0, BD)
    w = tl.load(weight + column, mask=column < D, other=0.0).to(tl.float32)[None, :]
    sums = tl.zeros([BR, BD], tl.float32)
    for first in range(tl.program_id(0) * BR, rows, tl.num_programs(0) * BR):
        row = first + tl.arange(0, BR).to(tl.int64)
        inside = (row < rows)[:, None] & (column < D)[None, :]
        wide = tl.load(x + row[:, None] * stride + column[None, :], mask=inside, other=0.0).to(tl.float32)
        g = tl.load(grad + row[:, None] * D + column[None, :], mask=inside, other=0.0).to(tl.float32)
        r = tl.load(scale + row, mask=row < rows, other=0.0)[:, None]
        normed = wide * r
        along = tl.sum(g * w * normed, 1)[:, None] / D
        slope = r * (g * w - along * normed)
        tl.store(grad_x + row[:, None] * D + column[None, :], slope.to(grad_x.dtype.element_ty), mask=inside)
        sums += g * normed
    to = parts + tl.program_id(0).to(tl.int64) * D + column
    tl.store(to, tl.sum(sums, 0), mask=column < D)


def _sizes(width: int) -> dict[str, Any]:
    """Constants of a launch for rows of this width."""
    block = triton.next_power_of_2(width)
    return {"D": width, "BD": block, "BR": max(1, TILE // block), "num_warps": 8}


def _rows(x: Tensor) -> Tensor:
    """x as [rows, D] with neighbouring elements of a row side by side; a slice of wider rows stays where it is."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


@launch.on_device
def forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(out as x [..., D], 1 / sqrt(mean(x^2) + eps) [rows] fp32); out has the wider type of x and weight."""
    out = x.new_empty(x.shape, dtype=torch.promote_types(x.dtype, weight.dtype))
    rows, sizes = _rows(x), _sizes(x.shape[-1])
    scale = x.new_empty(rows.shape[0], dtype=torch.float32)
    grid = (triton.cdiv(rows.shape[0], sizes["BR"]),)
    if grid[0]:
        _forward[grid](rows, weight.contiguous(), out, scale, rows.shape[0], rows.stride(0), eps, **sizes)
    return out, scale


@launch.on_device
def backward(x: Tensor, weight: Tensor, scale: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight."""
    rows, sizes = _rows(x), _sizes(x.shape[-1])
    grad_x = x.new_empty(x.shape)
    programs = min(_programs(x.device), triton.cdiv(rows.shape[0], sizes["BR"]))
    parts = weight.new_empty(programs, weight.numel(), dtype=torch.float32)
    if programs:
        arguments = rows, weight.contiguous(), scale, grad.contiguous(), grad_x, parts
        _backward[(programs,)](*arguments, rows.shape[0], rows.stride(0), **sizes)
    return grad_x, parts.sum(0).to(weight.dtype)


def _programs(device: torch.device) -> int:
    """How many programs share the rows of the backward pass."""
    if device.type != "cuda":
        return PROGRAMS_PER_PROCESSOR
    return PROGRAMS_PER_PROCESSOR * int(torch.cuda.get_device_properties(device).multi_processor_count)


_COMMON = {"x": "*bf16", "weight": "*bf16", "scale": "*fp32", "rows": "i32", "stride": "i32"}
_FORWARD = {**_COMMON, "out": "*bf16", "eps": "fp32"}
_BACKWARD = {**_COMMON, "grad": "*bf16", "grad_x": "*bf16", "parts": "*fp32"}


def _case(name: str, kernel: Any, arguments: dict[str, str], width: int) -> Case:
    return Case(f"rms_norm.{name}_{width}", kernel, arguments, _sizes(width))


CASES = [  # the widths of GLM-5 (latents, hidden) and the widest
    _case(name, kernel, arguments, width)
    for name, kernel, arguments in (("forward", _forward, _FORWARD), ("backward", _backward, _BACKWARD))
    for width in (512, 6144, 8192)
]
