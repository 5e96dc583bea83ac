"""Sparse attention over latents as `torch.library` operators, so that compilers and checkpointing see one node."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels import launch
from kernels.sparse_attention import reference


@torch.library.custom_op("longhaul::sparse_mla", mutates_args=())
def sparse_mla(query: Tensor, latent: Tensor, index: Tensor, scale: float, value_dim: int) -> tuple[Tensor, Tensor]:
    """(out [B, T, H, value_dim], lse [B, T, H] fp32) of query [B, T, H, D], latent [B, S, D], index [B, T, K]."""
    if launch.runs(query, latent, index):
        from kernels.sparse_attention import triton

        return triton.forward(query, latent, index, scale, value_dim)
    return reference.sparse_mla(query, latent, index, scale, value_dim)


@torch.library.custom_op("longhaul::sparse_mla_backward", mutates_args=())
def sparse_mla_backward(
    query: Tensor, latent: Tensor, index: Tensor, out: Tensor, lse: Tensor, grad_out: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Gradients of query and latent."""
    if launch.runs(query, latent, index):
        from kernels.sparse_attention import triton

        return triton.backward(query, latent, index, out, lse, grad_out, scale)
    with torch.enable_grad():
        inputs = query.detach().requires_grad_(), latent.detach().requires_grad_()
        again, _ = reference.sparse_mla(*inputs, index, scale, out.shape[-1])
        for_query, for_latent = torch.autograd.grad(again, inputs, grad_out)
    return for_query, for_latent


@sparse_mla.register_fake
def _(query: Tensor, latent: Tensor, index: Tensor, scale: float, value_dim: int) -> tuple[Tensor, Tensor]:
    lse = torch.float64 if query.dtype == torch.float64 else torch.float32
    return query.new_empty(*query.shape[:3], value_dim), query.new_empty(query.shape[:3], dtype=lse)


@sparse_mla_backward.register_fake
def _(
    query: Tensor, latent: Tensor, index: Tensor, out: Tensor, lse: Tensor, grad_out: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), latent.new_empty(latent.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, latent, index, ctx.scale, _ = inputs
    ctx.save_for_backward(query, latent, index, *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad_out: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    query, latent, index, out, lse = ctx.saved_tensors
    return *sparse_mla_backward(query, latent, index, out, lse, grad_out.contiguous(), ctx.scale), None, None, None


sparse_mla.register_autograd(_backward, setup_context=_setup)
