"""Sparse attention over latents, forward and backward."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from kernels.bench.entries import dense
from kernels.bench.entry import Candidate, Entry, Inputs, Place, Shape, Sweep
from kernels.roofline import sparse
from kernels.sparse_attention import operator, reference

SCALE, ROWS = 0.0625, 256  # 256^-1/2, GLM-5's; tokens at a time in plain PyTorch
_CHECK = {"S": 64, "SKV": 4096, "H": 64, "K": 2048, "D": 576, "V": 512}
_TINY = {"S": 3, "SKV": 40, "H": 3, "K": 20, "D": 80, "V": 64}


def make(place: Place, s: Shape) -> Inputs:
    """query [1, S, H, D], latent [1, SKV, D], index [1, S, K], value_dim; one row is half padding, one all padding."""
    index = place.distinct(s["S"], s["K"], s["SKV"]).unsqueeze(0)
    index[0, 0, s["K"] // 2 :] = -1
    index[0, 1] = -1
    return place.randn(1, s["S"], s["H"], s["D"]), place.randn(1, s["SKV"], s["D"]), index, s["V"]


def make_backward(place: Place, s: Shape) -> Inputs:
    """The same, with output, log-sum-exp and the output's gradient."""
    query, latent, index, value_dim = make(place, s)
    out, lse = operator.sparse_mla(query, latent, index, SCALE, value_dim)
    return query, latent, index, out, lse, torch.randn_like(out)


def kernel(query: Tensor, latent: Tensor, index: Tensor, value_dim: int) -> tuple[Tensor, ...]:
    """The operator: Triton on a GPU."""
    return tuple(operator.sparse_mla(query, latent, index, SCALE, value_dim))


def plain(query: Tensor, latent: Tensor, index: Tensor, value_dim: int) -> tuple[Tensor, ...]:
    """Gather and two products, a few tokens at a time."""
    pieces = zip(query.split(ROWS, 1), index.split(ROWS, 1), strict=True)
    parts = [reference.sparse_mla(q, latent, i, SCALE, value_dim) for q, i in pieces]
    return tuple(torch.cat(x, 1) for x in zip(*parts, strict=True))


def kernel_backward(query: Tensor, latent: Tensor, index: Tensor, out: Tensor, lse: Tensor, grad: Tensor) -> Any:
    """The operator's gradients of query and latent."""
    return tuple(operator.sparse_mla_backward(query, latent, index, out, lse, grad, SCALE))


def plain_backward(query: Tensor, latent: Tensor, index: Tensor, out: Tensor, lse: Tensor, grad: Tensor) -> Any:
    """The same by autograd, forward included, a few tokens at a time."""
    for_query, for_latent = [], torch.zeros_like(latent, dtype=torch.promote_types(latent.dtype, torch.float32))
    for q, i, g in zip(*(x.split(ROWS, 1) for x in (query, index, grad)), strict=True):
        leaves = q.detach().requires_grad_(), latent.detach().requires_grad_()
        again, _ = reference.sparse_mla(*leaves, i, SCALE, out.shape[-1])
        grads = torch.autograd.grad(again, leaves, g)
        for_query.append(grads[0])
        for_latent += grads[1]
    return torch.cat(for_query, 1), for_latent


def tilelang(module: str, call: Callable[..., Any]) -> Candidate:
    """TileLang's example kernel: it is no part of the package, so TILELANG_DSA has to name its folder."""
    folder = os.environ.get("TILELANG_DSA")
    if find_spec("tilelang") is None or not folder:
        return Candidate("TileLang", call, missing="TileLang is not installed, or TILELANG_DSA is not set.")
    sys.path.append(folder)
    try:
        loaded = import_module(module)
    except Exception as problem:
        return Candidate("TileLang", call, missing=f"TileLang's {module} could not be loaded ({problem}).")
    return Candidate("TileLang", lambda *inputs: call(loaded, *inputs))


def _tilelang_forward(module: Any, query: Tensor, latent: Tensor, index: Tensor, _: int) -> Any:
    return module.sparse_mla_fwd_interface(query, latent.unsqueeze(2), index.unsqueeze(2))


def _tilelang_backward(
    module: Any, query: Tensor, latent: Tensor, index: Tensor, out: Tensor, lse: Tensor, grad: Tensor
) -> Any:
    return module.sparse_mla_bwd(query, latent.unsqueeze(2), out, grad, index.unsqueeze(2), lse)


def _roofline(s: Shape) -> sparse.Shape:
    return sparse.Shape(s["S"], s["SKV"], s["H"], s["K"], s["V"], s["D"] - s["V"])


def _shape(keys: int, heads: int) -> Shape:
    return {"S": 4096, "SKV": keys, "H": heads, "K": 2048, "D": 576, "V": 512}


_MODULE = "kernels.sparse_attention.triton"
ENTRIES = [
    Entry(
        name="sparse_attention.forward",
        make=make,
        kernel=kernel,
        plain=plain,
        shapes=[_shape(keys, 128) for keys in (8192, 32_768, 131_072)],
        check=_CHECK,
        tiny=_TINY,
        flops=lambda s: sparse.forward_flops(_roofline(s)),
        bytes=lambda s: sparse.forward_bytes(_roofline(s)),
        baselines=[Candidate("torch, gathered", plain), dense.SDPA, tilelang("sparse_mla_fwd", _tilelang_forward)],
        sweeps=[Sweep(_MODULE, "_forward", [{"BK": 32, "STAGES": 2}, {"BK": 32, "STAGES": 3}, {"STAGES": 1}])],
    ),
    Entry(
        name="sparse_attention.backward",
        make=make_backward,
        kernel=kernel_backward,
        plain=plain_backward,
        shapes=[_shape(8192, 64)],
        check=_CHECK,
        tiny=_TINY,
        flops=lambda s: sparse.backward_flops(_roofline(s)),
        bytes=lambda s: sparse.backward_bytes(_roofline(s)),
        baselines=[
            Candidate("torch, gathered", plain_backward),
            dense.SDPA_BACKWARD,
            tilelang("sparse_mla_bwd", _tilelang_backward),
        ],
        sweeps=[
            Sweep(_MODULE, "_backward_latent", [{"BK": 16}, {"num_warps": 4}]),
            Sweep(_MODULE, "_backward_query", [{"BK": 64, "STAGES": 2}, {"STAGES": 2}, {"STAGES": 4}]),
        ],
    ),
]
