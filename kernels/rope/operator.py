"""Rotary position embedding as a `torch.library` operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels import launch
from kernels.rope import reference


@torch.library.custom_op("longhaul::rotate", mutates_args=())
def rotate(x: Tensor, table: Tensor, inverse: bool) -> Tensor:
    """x [..., dim] turned by table [..., dim/2] complex64, or back by it; the table gets no gradient."""
    if launch.runs(x):
        from kernels.rope import triton

        return triton.rotate(x, table, inverse)
    return reference.apply_rope(x, table.conj() if inverse else table).contiguous()


@rotate.register_fake
def _(x: Tensor, table: Tensor, inverse: bool) -> Tensor:
    return x.new_empty(x.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, table, ctx.inverse = inputs
    ctx.save_for_backward(table)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (table,) = ctx.saved_tensors
    return rotate(grad, table, not ctx.inverse), None, None


rotate.register_autograd(_backward, setup_context=_setup)
