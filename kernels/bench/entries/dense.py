"""Dense attention of the same layer: what sparse attention replaces."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.bench.entry import Candidate, Inputs, Place, Shape

NOPE, ROPE, VALUE, LATENT = 192, 64, 256, 512  # GLM-5's head: query and key 192 + 64, value 256; latent of keys 512


def inputs(place: Place, shape: Shape) -> Inputs:
    """query [1, H, S, 256], key and value [1, H, SKV, 256]."""
    many, few = (1, shape["H"], shape["SKV"], NOPE + ROPE), (1, shape["H"], shape["S"], NOPE + ROPE)
    return place.randn(*few), place.randn(*many), place.randn(*many)


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Every query sees every key."""
    return F.scaled_dot_product_attention(query, key, value)


def backward_inputs(place: Place, shape: Shape) -> Inputs:
    """The same as leaves, the output and its gradient."""
    leaves = tuple(x.requires_grad_() for x in inputs(place, shape))
    out = attention(*leaves)
    return *leaves, out, torch.randn_like(out)


def backward(query: Tensor, key: Tensor, value: Tensor, out: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """The gradients of `attention`."""
    return tuple(torch.autograd.grad(out, (query, key, value), grad, retain_graph=True))


SDPA = Candidate("dense, torch SDPA", attention, inputs)
SDPA_BACKWARD = Candidate("dense, torch SDPA", backward, backward_inputs)
