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


def available(query: Tensor, value: Tensor) -> bool:
    """Whether the C kernel can take these tensors on this machine."""
    sizes = query.shape[-1] % LANES == 0 and value.shape[-1] % LANES == 0
    plain = query.device.type == "cpu" and query.dtype == value.dtype == torch.float32
    return plain and sizes and library(SOURCE, DQK=query.shape[-1], DV=value.shape[-1]) is not None


class ListedAttention(torch.autograd.Function):
    """query [B, H, T, D], key [B, H, S, D], value [B, H, S, Dv], indices [B, T, K] int32 -> [B, H, T, Dv]."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, indices: Tensor, scale: float) -> Tensor:
        """Keeps the attention weights [B, H, T, K] for the backward pass."""
        query, key, value, indices = (x.contiguous() for x in (query, key, value, indices))
        out = query.new_empty(*query.shape[:3], value.shape[-1])
        weights = query.new_empty(*query.shape[:3], indices.shape[-1])
        native = _library(query, value)
        sizes = _sizes(query, key, indices, scale)
        inputs = [pointer(x) for x in (query, key, value, indices)]

        def work(begin: int, end: int) -> None:
            span = ctypes.c_long(begin), ctypes.c_long(end)
            native.forward(*inputs, *sizes, pointer(out), pointer(weights), *span)

        parallel(query.shape[0] * query.shape[1], work)
        ctx.save_for_backward(query, key, value, indices, weights)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        """Gradients of query, key and value."""
        query, key, value, indices, weights = ctx.saved_tensors
        grad_out = grads[0].contiguous()
        grad_query, grad_key, grad_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        native = _library(query, value)
        sizes = _sizes(query, key, indices, ctx.scale)
        inputs = [pointer(x) for x in (query, key, value, indices)]
        rest = [pointer(x) for x in (weights, grad_out, grad_query, grad_key, grad_value)]

        def work(begin: int, end: int) -> None:
            native.backward(*inputs, *sizes, *rest, ctypes.c_long(begin), ctypes.c_long(end))

        parallel(query.shape[0] * query.shape[1], work)
        return grad_query, grad_key, grad_value, None, None


def _library(query: Tensor, value: Tensor) -> ctypes.CDLL:
    native = library(SOURCE, DQK=query.shape[-1], DV=value.shape[-1])
    assert native is not None
    return native


def _sizes(query: Tensor, key: Tensor, indices: Tensor, scale: float) -> tuple[Any, ...]:
    counts = (query.shape[1], query.shape[2], key.shape[2], indices.shape[2])
    return (*(ctypes.c_long(n) for n in counts), ctypes.c_float(scale))


def listed_attention(query: Tensor, key: Tensor, value: Tensor, indices: Tensor, scale: float) -> Tensor:
    """softmax(query . key * scale) . value over the listed keys of each query."""
    return ListedAttention.apply(query, key, value, indices, scale)  # type: ignore[no-untyped-call,no-any-return]
