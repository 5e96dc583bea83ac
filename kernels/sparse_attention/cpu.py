"""Attention over listed keys by the C kernel `cpu.c`: fp32 on the CPU, sizes that fill whole vectors."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernels.native import library, parallel, pointer

SOURCE = Path(__file__).with_name("cpu.c")
LANES = 8  # floats in one vector of the kernel
BLOCK = 256  # queries whose weights the kernel holds between reading keys and reading values


class _Rows(ctypes.Structure):
    """`tensor` of the kernel: address and strides of batch, head and token."""

    _fields_ = (("data", ctypes.c_void_p), *((name, ctypes.c_long) for name in ("batch", "head", "token")))

    @classmethod
    def of(cls, x: Tensor) -> Any:
        """A pointer to the description of x [B, H, T, D], whose rows are contiguous."""
        return ctypes.byref(cls(x.data_ptr(), *x.stride()[:3]))


def available(query: Tensor, value: Tensor) -> bool:
    """Whether the C kernel can take these tensors on this machine."""
    sizes = query.shape[-1] % LANES == 0 and value.shape[-1] % LANES == 0
    plain = query.device.type == "cpu" and query.dtype == value.dtype == torch.float32
    return plain and sizes and _library(query, value) is not None


class ListedAttention(torch.autograd.Function):
    """query [B, H, T, D], key [B, H, S, D], value [B, H, S, Dv], indices [B, T, K] int32 -> [B, H, T, Dv]."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, indices: Tensor, scale: float, learns: bool
    ) -> Tensor:
        """Keeps the attention weights [B, H, T, K] for the backward pass, where there will be one."""
        query, key, value = (_with_rows(x) for x in (query, key, value))
        indices = indices.contiguous()
        out = _empty_by_token(query, value.shape[-1])
        weights = query.new_empty(*query.shape[:3], indices.shape[-1]) if learns else None
        _run(
            "forward", (query, key, value, indices), scale, _Rows.of(out), None if weights is None else pointer(weights)
        )
        if weights is not None:
            ctx.save_for_backward(query, key, value, indices, weights)
            ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        """Gradients of query, key and value."""
        query, key, value, indices, weights = ctx.saved_tensors
        grad_out, grad_query = _with_rows(grads[0]), _empty_by_token(query, query.shape[-1])
        grad_key, grad_value = (x.new_empty(x.shape) for x in (key, value))
        results = _Rows.of(grad_query), pointer(grad_key), pointer(grad_value)
        _run("backward", (query, key, value, indices), ctx.scale, _Rows.of(grad_out), pointer(weights), *results)
        return grad_query, grad_key, grad_value, None, None, None


def _run(name: str, inputs: tuple[Tensor, Tensor, Tensor, Tensor], scale: float, *rest: Any) -> None:
    """One of the kernel's functions on all heads."""
    query, key, value, indices = inputs
    run = getattr(_library(query, value), name)
    tensors = (*(_Rows.of(x) for x in (query, key, value)), pointer(indices))
    heads, keys, topk = query.shape[1], key.shape[2], indices.shape[2]
    sizes = (*(ctypes.c_long(n) for n in (heads, query.shape[2], keys, topk)), ctypes.c_float(scale))

    def work(begin: int, end: int) -> None:
        shapes = (keys, key.shape[-1]), (keys, value.shape[-1]), (BLOCK, topk)
        scratch = [query.new_empty(shape) for shape in shapes]
        run(*tensors, *sizes, *rest, *map(pointer, scratch), ctypes.c_long(begin), ctypes.c_long(end))

    parallel(query.shape[0] * heads, work)


def _library(query: Tensor, value: Tensor) -> ctypes.CDLL | None:
    return library(SOURCE, DQK=query.shape[-1], DV=value.shape[-1], BLOCK=BLOCK)


def _with_rows(x: Tensor) -> Tensor:
    """x, or a copy where its rows are not contiguous."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _empty_by_token(like: Tensor, width: int) -> Tensor:
    """[B, H, T, width], laid out as [B, T, H, width], the order in which the network's matrices read and write it."""
    batch, heads, length = like.shape[:3]
    return like.new_empty(batch, length, heads, width).transpose(1, 2)


def listed_attention(query: Tensor, key: Tensor, value: Tensor, indices: Tensor, scale: float) -> Tensor:
    """softmax(query . key * scale) . value over the listed keys of each query."""
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    return ListedAttention.apply(query, key, value, indices, scale, learns)  # type: ignore[no-untyped-call,no-any-return]
