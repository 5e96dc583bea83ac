"""Root-mean-square normalisation as `torch.library` operators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels import launch
from kernels.rms_norm import reference


@torch.library.custom_op("longhaul::rms_norm", mutates_args=())
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(out as x [..., D], 1 / sqrt(mean(x^2) + eps) [rows] fp32, which carries no gradient)."""
    if launch.runs(x, weight):
        from kernels.rms_norm import triton

        return triton.forward(x, weight, eps)
    scale = torch.rsqrt(x.float().square().mean(-1) + eps).flatten()
    return reference.rms_norm(x, weight, eps).contiguous(), scale


@torch.library.custom_op("longhaul::rms_norm_backward", mutates_args=())
def rms_norm_backward(x: Tensor, weight: Tensor, scale: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight."""
    if launch.runs(x, weight):
        from kernels.rms_norm import triton

        return triton.backward(x, weight, scale, grad)
    r, g = scale.view(*x.shape[:-1], 1), grad.float()
    normed, slope = x.float() * r, g * weight.float()
    for_x = r * (slope - normed * (slope * normed).mean(-1, keepdim=True))
    return for_x.to(x.dtype).contiguous(), (g * normed).flatten(0, -2).sum(0).to(weight.dtype)


@rms_norm.register_fake
def _(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    out = x.new_empty(x.shape, dtype=torch.promote_types(x.dtype, weight.dtype))
    return out, x.new_empty(x.shape[:-1].numel(), dtype=torch.float32)


@rms_norm_backward.register_fake
def _(x: Tensor, weight: Tensor, scale: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], inputs[1], output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *rms_norm_backward(*ctx.saved_tensors, grad), None


rms_norm.register_autograd(_backward, setup_context=_setup)
