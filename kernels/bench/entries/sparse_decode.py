"""Sparse attention of one decoding step, over a paged cache of latents."""

from __future__ import annotations

from torch import Tensor

from kernels.bench.entry import Candidate, Entry, Inputs, Place, Shape, Sweep
from kernels.roofline import sparse
from kernels.sparse_decode import operator, reference

SCALE = 0.0625


def make(place: Place, s: Shape) -> Inputs:
    """query [B, H, D], pages [B * N, page, D] in no order, page_table, index [B, K] and value_dim."""
    columns = -(-s["SKV"] // s["PAGE"])
    table = place.distinct(1, s["B"] * columns, s["B"] * columns).view(s["B"], columns)
    index = place.distinct(s["B"], s["K"], s["SKV"])
    return place.randn(s["B"], s["H"], s["D"]), place.randn(s["B"] * columns, s["PAGE"], s["D"]), table, index, s["V"]


def kernel(query: Tensor, pages: Tensor, page_table: Tensor, index: Tensor, value_dim: int) -> tuple[Tensor, ...]:
    """The operator: Triton on a GPU."""
    return tuple(operator.sparse_decode(query, pages, page_table, index, SCALE, value_dim))


def plain(query: Tensor, pages: Tensor, page_table: Tensor, index: Tensor, value_dim: int) -> tuple[Tensor, ...]:
    """Gather and two products."""
    return reference.sparse_decode(query, pages, page_table, index, SCALE, value_dim)


def _roofline(s: Shape) -> sparse.Shape:
    return sparse.Shape(s["B"], s["SKV"], s["H"], s["K"], s["V"], s["D"] - s["V"])


def _shape(batch: int) -> Shape:
    return {"B": batch, "SKV": 32_768, "H": 64, "K": 2048, "D": 576, "V": 512, "PAGE": 64}


_OPTIONS = [{"STAGES": 1, "num_stages": 1}, {"num_warps": 4}]
ENTRIES = [
    Entry(
        name="sparse_decode",
        make=make,
        kernel=kernel,
        plain=plain,
        shapes=[_shape(batch) for batch in (1, 16, 128)],
        check=_shape(3),
        tiny={"B": 2, "SKV": 40, "H": 3, "K": 20, "D": 80, "V": 64, "PAGE": 16},
        flops=lambda s: sparse.forward_flops(_roofline(s)),
        bytes=lambda s: sparse.decode(_roofline(s)).bytes,
        baselines=[Candidate("torch, gathered", plain)],
        sweeps=[Sweep("kernels.sparse_decode.triton", "_shares", _OPTIONS)],
    )
]
