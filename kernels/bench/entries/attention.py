"""A whole layer's attention, dense against DSA: from the latents to the heads' values, forward and backward.

Dense: keys and values are expanded from the latent, then causal attention. DSA: index scores, top-k, queries taken
into the latent space, sparse attention, values out of it. Projections that both share are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.bench.entries import indexer
from kernels.bench.entries.dense import LATENT, NOPE, ROPE, VALUE
from kernels.bench.entry import Candidate, Entry, Inputs, Place, Shape
from kernels.sparse_attention import sparse_mla
from kernels.topk import operator

SCALE = (NOPE + ROPE) ** -0.5


def make(place: Place, s: Shape) -> Inputs:
    """query [1, S, H, 256], latent [1, S, 576], up [H, 192 + 256, 512] and what the indexer takes, but k."""
    up = place.randn(s["H"], NOPE + VALUE, LATENT, scale=LATENT**-0.5)
    index = indexer.make(place, {"T": s["S"], "S": s["S"], "H": s["HI"], "D": s["DI"], "K": s["K"]})
    return place.randn(1, s["S"], s["H"], NOPE + ROPE), place.randn(1, s["S"], LATENT + ROPE), up, *index


def dense(query: Tensor, latent: Tensor, up: Tensor, *_: Any) -> Tensor:
    """Causal attention over keys and values of every head: [1, S, H, 256]."""
    pairs = torch.einsum("bsc,hvc->bhsv", latent[..., :LATENT], up)
    rotary = latent[:, None, :, LATENT:].expand(-1, up.shape[0], -1, -1)
    key = torch.cat([pairs[..., :NOPE], rotary], -1)
    out = F.scaled_dot_product_attention(query.transpose(1, 2), key, pairs[..., NOPE:], is_causal=True, scale=SCALE)
    return out.transpose(1, 2)


def sparse(query: Tensor, latent: Tensor, up: Tensor, *index: Any) -> Tensor:
    """The same over the keys that the indexer selects."""
    with torch.no_grad():
        keys = operator.select_keys_fused(*index)
    absorbed = torch.einsum("bthn,hnc->bthc", query[..., :NOPE], up[:, :NOPE])
    out, _ = sparse_mla(torch.cat([absorbed, query[..., NOPE:]], -1), latent, keys, SCALE, LATENT)
    return torch.einsum("bthc,hvc->bthv", out, up[:, NOPE:])


def dense_with_gradients(*inputs: Tensor) -> tuple[Tensor, ...]:
    """`dense` and the gradients of query, latent and up."""
    return _with_gradients(dense, *inputs)


def sparse_with_gradients(*inputs: Tensor) -> tuple[Tensor, ...]:
    """`sparse` and the gradients of query, latent and up."""
    return _with_gradients(sparse, *inputs)


def _with_gradients(attention: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    leaves = tuple(x.detach().requires_grad_() for x in inputs[:3])
    out = attention(*leaves, *inputs[3:])
    return out.detach(), *torch.autograd.grad(out, leaves, torch.ones_like(out))


def _shape(length: int) -> Shape:
    return {"S": length, "H": 64, "HI": 32, "DI": 128, "K": 2048}


_COMMON: dict[str, Any] = {
    "make": make,
    "shapes": [_shape(4096 << n) for n in range(6)],
    "check": {"S": 1024, "H": 16, "HI": 32, "DI": 128, "K": 1024},  # k reaches every key, so both are the same
    "tiny": {"S": 4, "H": 1, "HI": 1, "DI": 16, "K": 4},
}
ENTRIES = [  # TFLOPS would compare different work: times and their ratio are what counts
    Entry(
        name="attention.forward",
        kernel=lambda *x: (sparse(*x),),
        plain=lambda *x: (dense(*x),),
        flops=lambda s: 0.0,
        baselines=[Candidate("dense, torch SDPA", dense)],
        **_COMMON,
    ),
    Entry(
        name="attention.forward_backward",
        kernel=sparse_with_gradients,
        plain=dense_with_gradients,
        flops=lambda s: 0.0,
        baselines=[Candidate("dense, torch SDPA", dense_with_gradients)],
        **_COMMON,
    ),
]
