"""Index scores and the selection of the best keys, as one operation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kernels import topk
from kernels.bench.entry import Candidate, Entry, Inputs, Place, Shape
from kernels.lightning_indexer import reference
from kernels.roofline import others

SCORES = 64 << 20  # products of queries, heads and keys at once in plain PyTorch


def make(place: Place, s: Shape) -> Inputs:
    """query [1, T, H, D], key [1, S, D], weights [1, T, H], first and last [1, T] (causal, the last T of S), k."""
    last = torch.arange(s["S"] - s["T"] + 1, s["S"] + 1, device=place.device).unsqueeze(0)
    weights = place.randn(1, s["T"], s["H"], scale=s["H"] ** -0.5)
    return (
        place.randn(1, s["T"], s["H"], s["D"]),
        place.randn(1, s["S"], s["D"]),
        weights,
        torch.zeros_like(last),
        last,
        s["K"],
    )


def kernel(query: Tensor, key: Tensor, weights: Tensor, first: Tensor, last: Tensor, k: int) -> tuple[Tensor, ...]:
    """The selected keys, [1, T, k] int32."""
    return (fused()(query, key, weights, first, last, k),)


def plain(query: Tensor, key: Tensor, weights: Tensor, first: Tensor, last: Tensor, k: int) -> tuple[Tensor, ...]:
    """Scores, then torch.topk, a few queries at a time."""
    return (_in_blocks(query, key, weights, first, last, k, _torch_topk),)


def deterministic(query: Tensor, key: Tensor, weights: Tensor, first: Tensor, last: Tensor, k: int) -> Tensor:
    """Scores, then the selection that gives ties to the lower index, unfused."""
    return _in_blocks(query, key, weights, first, last, k, topk.select_keys)


def _torch_topk(scores: Tensor, first: Tensor, last: Tensor, k: int) -> Tensor:
    key = torch.arange(scores.shape[-1], device=scores.device)
    hidden = (key < first.unsqueeze(-1)) | (key >= last.unsqueeze(-1))
    values, found = scores.masked_fill(hidden, -torch.inf).topk(k, -1)
    return found.masked_fill(values == -torch.inf, -1).int()


def _in_blocks(
    query: Tensor, key: Tensor, weights: Tensor, first: Tensor, last: Tensor, k: int, select: Callable[..., Tensor]
) -> Tensor:
    rows = max(1, SCORES // (query.shape[2] * key.shape[1]))
    parts = zip(*(x.split(rows, 1) for x in (query, weights, first, last)), strict=True)
    return torch.cat([select(_scores(q, key, w), begin, end, k) for q, w, begin, end in parts], 1)


def _scores(query: Tensor, key: Tensor, weights: Tensor) -> Tensor:
    if query.dtype != torch.float64:
        return reference.index_scores(query, key, weights)
    products = torch.einsum("bthd,bsd->bths", query, key).relu()
    return torch.einsum("bth,bths->bts", weights, products) * query.shape[-1] ** -0.5


def captured(inputs: Inputs, found: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The scores of the selected keys, best first: where scores tie, different keys are equally right."""
    scores = _scores(*inputs[:3])
    index = found[0].long()
    values = scores.gather(-1, index.clamp(min=0)).masked_fill(index < 0, -torch.inf)
    return (values.sort(-1, descending=True).values,)


def fused() -> Callable[..., Tensor]:
    """The operation, or the unfused selection where there is none."""
    return getattr(topk, "select_keys_fused", deterministic)


def missing() -> str:
    """Why the fused operation cannot run."""
    return "kernels.topk has no select_keys_fused." if fused() is deterministic else ""


ENTRIES = [
    Entry(
        name="indexer_topk",
        make=make,
        kernel=kernel,
        plain=plain,
        shapes=[{"T": 4096, "S": 131_072, "H": 32, "D": 128, "K": 2048}],
        check={"T": 64, "S": 8192, "H": 32, "D": 128, "K": 2048},
        tiny={"T": 3, "S": 40, "H": 2, "D": 16, "K": 8},
        flops=lambda s: others.indexer_flops(s["T"], s["S"], s["H"], s["D"]),
        baselines=[Candidate("torch, scores then topk", plain), Candidate("unfused, ties by index", deterministic)],
        view=captured,
        missing=missing,
    )
]
