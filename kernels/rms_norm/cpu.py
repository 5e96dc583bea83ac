"""Root-mean-square normalisation by the C kernel `cpu.c`: fp32 on the CPU, one pass forward and one backward."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernels.native import library, parallel, pointer

SOURCE = Path(__file__).with_name("cpu.c")
SMALL = 1 << 19  # elements that are done before a second thread has begun


def available(x: Tensor, weight: Tensor) -> bool:
    """Whether the C kernel can take these tensors on this machine."""
    return x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and library(SOURCE) is not None


class RMSNormFunction(torch.autograd.Function):
    """x [..., D], weight [D] -> [..., D]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Keeps the scale of each row."""
        x, weight = x.contiguous(), weight.contiguous()
        out, scale = torch.empty_like(x), x.new_empty(x.shape[:-1])
        native, inputs, outputs = library(SOURCE), (pointer(x), pointer(weight)), (pointer(out), pointer(scale))
        assert native is not None
        sizes = ctypes.c_long(x.shape[-1]), ctypes.c_float(eps)
        _rows(scale.numel(), x.numel(), lambda *span: native.forward(*inputs, *sizes, *outputs, *_longs(span)))
        ctx.save_for_backward(x, weight, scale)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, None]:
        """Gradients of x and weight; each range of rows sums its own part of the weight's, in the order of the rows."""
        x, weight, scale = ctx.saved_tensors
        grad, grad_x, parts = grads[0].contiguous(), torch.empty_like(x), {}
        native, inputs = library(SOURCE), [pointer(t) for t in (x, weight, scale, grad)]
        assert native is not None

        def work(begin: int, end: int) -> None:
            parts[begin] = torch.zeros_like(weight)
            outputs = pointer(grad_x), pointer(parts[begin])
            native.backward(*inputs, ctypes.c_long(weight.numel()), *outputs, *_longs((begin, end)))

        _rows(scale.numel(), x.numel(), work)
        return grad_x, sum((parts[begin] for begin in sorted(parts)), torch.zeros_like(weight)), None


def _rows(count: int, elements: int, work: Any) -> None:
    """All rows at once where there are few, else spread over the threads."""
    if elements < SMALL:
        work(0, count)
    else:
        parallel(count, work)


def _longs(span: tuple[int, ...]) -> list[ctypes.c_long]:
    return [ctypes.c_long(n) for n in span]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As `reference.rms_norm`."""
    return RMSNormFunction.apply(x, weight, eps)  # type: ignore[no-untyped-call,no-any-return]
