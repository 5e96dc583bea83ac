"""Interleaved rotary position embedding as a Triton kernel; the backward pass is the rotation the other way round."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels import launch
from kernels.cases import Case

TILE = 2048  # elements a program turns
WARPS = 4


@triton.jit
def _rotate(
    x, table, out, rows, stride, repeat, SIGN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BR: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)
    column = tl.arange(0, BD)[None, :]
    inside = (row < rows)[:, None] & (column < D)
    pairs = tl.load(x + row[:, None] * stride + column, mask=inside, other=0.0).to(tl.float32)
    turns = tl.load(table + (row // repeat)[:, None] * D + column, mask=inside, other=0.0)  # cos and sin in turns
    left, right = tl.split(tl.reshape(pairs, [BR, BD // 2, 2]))
    cos, sin = tl.split(tl.reshape(turns, [BR, BD // 2, 2]))
    sin = sin * SIGN
    turned = tl.reshape(tl.join(left * cos - right * sin, left * sin + right * cos), [BR, BD])
    tl.store(out + row[:, None] * D + column, turned.to(out.dtype.element_ty), mask=inside)


@launch.on_device
def rotate(x: Tensor, table: Tensor, inverse: bool) -> Tensor:
    """x [..., dim] turned by table (complex64, broadcastable to [..., dim/2]), or back by it, in x's type."""
    width = x.shape[-1]
    rows = x.reshape(-1, width)  # a slice of wider rows stays where it is
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    table, repeat = _table_rows(x.shape[:-1], table)
    out, block = x.new_empty(x.shape), triton.next_power_of_2(width)
    many = max(1, TILE // block)
    grid = (triton.cdiv(rows.shape[0], many),)
    sizes = {"SIGN": -1 if inverse else 1, "D": width, "BD": block, "BR": many, "num_warps": WARPS}
    if grid[0]:
        _rotate[grid](rows, torch.view_as_real(table), out, rows.shape[0], rows.stride(0), repeat, **sizes)
    return out


def _table_rows(leading: torch.Size, table: Tensor) -> tuple[Tensor, int]:
    """The table as [R, dim/2] without gaps, and how many rows of x in succession each of its rows turns."""
    shape = (1,) * (len(leading) + 1 - table.ndim) + tuple(table.shape[:-1])
    shared = len(leading)  # dimensions that the table has too; those after them have the size 1 in it, as heads do
    while shared and shape[shared - 1] == 1:
        shared -= 1
    wide = table.reshape(*shape[:shared], table.shape[-1]).expand(*leading[:shared], table.shape[-1])
    return wide.reshape(-1, table.shape[-1]).contiguous(), leading[shared:].numel()


_ARGUMENTS = {"x": "*bf16", "table": "*fp32", "out": "*bf16", "rows": "i32", "stride": "i32", "repeat": "i32"}
CASES = [
    Case(f"rope.{name}", _rotate, _ARGUMENTS, {"SIGN": sign, "D": 64, "BD": 64, "BR": TILE // 64, "num_warps": WARPS})
    for name, sign in (("forward", 1), ("backward", -1))
]
