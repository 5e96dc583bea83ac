"""The lightning indexer's scores as Triton kernels, forward and backward (DeepSeek-V3.2, section 2.1, equation 1).

A tile is a block of queries times a block of keys. The keys' tile stays on chip while the heads pass by, one
tensor-core product a head, and the sum over heads is made in registers, as DeepGEMM's `mqa_logits` makes it. Tiles in
which no query sees a key cost nothing but their -inf.

Backward is two kernels that share no output: one owns a block of queries and one head and passes over the keys
(gradients of queries and weights), the other owns a block of keys and passes over queries and heads (gradient of the
keys). Neither needs an atomic addition, so gradients are the same bits in every run.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels import launch
from kernels.cases import Case

FORWARD = {"BT": 64, "BS": 128, "STAGES": 3, "num_warps": 8}  # queries and keys a tile, depth of the pipeline
BY_QUERY = {"BT": 64, "BS": 64, "STAGES": 2, "num_warps": 8}
BY_KEY = {"BT": 64, "BS": 64, "STAGES": 2, "num_warps": 8}


@triton.jit
def block_start(tokens, BT: tl.constexpr):
    """The batch and the first token of the BT queries that this program owns."""
    blocks = tl.cdiv(tokens, BT)
    return tl.program_id(0).to(tl.int64) // blocks, (tl.program_id(0) % blocks) * BT


@triton.jit
def visible_range(first, last, row, inside, keys):
    """The half-open ranges of these rows; rows that do not exist see nothing."""
    low = tl.load(first + row, mask=inside, other=keys)
    high = tl.load(last + row, mask=inside, other=0)
    return tl.maximum(low, 0), tl.minimum(high, keys)


@triton.jit
def load_keys(key, number, keys, D: tl.constexpr):
    """The rows `number` [BS] of keys that begin at the pointer `key`: [BS, D]."""
    return tl.load(key + number[:, None] * D + tl.arange(0, D)[None, :], mask=(number < keys)[:, None], other=0.0)


@triton.jit
def score_tile(query, weights, inside, k, scale, H: tl.constexpr, STAGES: tl.constexpr):
    """Scores [BT, BS] of queries that begin at the pointer `query` and a tile of keys [BS, D]."""
    D: tl.constexpr = k.shape[1]
    row = tl.arange(0, inside.shape[0])
    at = row[:, None] * (H * D) + tl.arange(0, D)[None, :]
    score = tl.zeros([inside.shape[0], k.shape[0]], tl.float32)
    # Without `disable_licm` the addresses of k in shared memory are hoisted into registers that are not there
    for head in tl.range(0, H, num_stages=STAGES, disable_licm=True):
        q = tl.load(query + head * D + at, mask=inside[:, None], other=0.0)
        weight = tl.load(weights + head + row * H, mask=inside, other=0.0).to(tl.float32)
        product = tl.dot(q, tl.trans(k), input_precision="ieee")
        score += tl.maximum(product, 0.0) * weight[:, None]
    return score * scale


@triton.jit
def _forward(
    query, key, weights, first, last, scores, tokens, keys, scale,
    H: tl.constexpr, D: tl.constexpr, BT: tl.constexpr, BS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    batch, begin = block_start(tokens, BT)
    base, row = batch * tokens + begin, tl.arange(0, BT)
    inside = begin + row < tokens
    number = tl.program_id(1) * BS + tl.arange(0, BS)
    low, high = visible_range(first + base, last + base, row, inside, keys)
    seen = (number[None, :] >= low[:, None]) & (number[None, :] < high[:, None])
    score = tl.full([BT, BS], float("-inf"), tl.float32)
    if tl.max(seen.to(tl.int32)) > 0:
        k = load_keys(key + batch * keys * D, number, keys, D)
        score = score_tile(query + base * (H * D), weights + base * H, inside, k, scale, H, STAGES)
        score = tl.where(seen, score, float("-inf"))
    to = scores + base * keys + row[:, None].to(tl.int64) * keys + number[None, :]
    tl.store(to, score, mask=inside[:, None] & (number < keys)[None, :])


@triton.jit
def _backward_query(
    query, key, weights, slope, first, last, grad_query, grad_weights, tokens, keys, scale,
    H: tl.constexpr, D: tl.constexpr, BT: tl.constexpr, BS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    batch, begin = block_start(tokens, BT)
    base, row = batch * tokens + begin, tl.arange(0, BT)
    inside, head = begin + row < tokens, tl.program_id(1)
    to_query, to_weight = base * (H * D) + head * D, base * H + head
    at = row[:, None] * (H * D) + tl.arange(0, D)[None, :]
    low, high = visible_range(first + base, last + base, row, inside, keys)
    of_slope = slope + base * keys
    q = tl.load(query + to_query + at, mask=inside[:, None], other=0.0)
    sums = tl.zeros([BT, D], tl.float32)
    weight_sums = tl.zeros([BT], tl.float32)
    for start in tl.range(tl.min(low) // BS * BS, tl.max(high), BS, num_stages=STAGES, disable_licm=True):
        number = start + tl.arange(0, BS)
        k = load_keys(key + batch * keys * D, number, keys, D)
        seen = (number[None, :] >= low[:, None]) & (number[None, :] < high[:, None])
        pull = tl.load(of_slope + row[:, None] * keys + number[None, :], mask=seen, other=0.0)
        product = tl.dot(q, tl.trans(k), input_precision="ieee")
        pull = tl.where(product > 0, pull, 0.0)
        weight_sums += tl.sum(pull * product, 1)
        sums = tl.dot(pull.to(k.dtype), k, sums, "ieee")
    factor = tl.load(weights + to_weight + row * H, mask=inside, other=0.0).to(tl.float32) * scale
    sums = (sums * factor[:, None]).to(grad_query.dtype.element_ty)
    tl.store(grad_query + to_query + at, sums, mask=inside[:, None])
    tl.store(grad_weights + to_weight + row * H, (weight_sums * scale).to(grad_weights.dtype.element_ty), mask=inside)


@triton.jit
def _backward_key(
    query, key, weights, slope, first, last, grad_key, tokens, keys, scale,
    H: tl.constexpr, D: tl.constexpr, BT: tl.constexpr, BS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    begin = tl.program_id(0) * BS
    number, row = begin + tl.arange(0, BS), tl.arange(0, BT)
    k = load_keys(key + batch * keys * D, number, keys, D)
    sums = tl.zeros([BS, D], tl.float32)
    at = row[:, None] * (H * D) + tl.arange(0, D)[None, :]
    for start in tl.range(0, tokens, BT, num_stages=1, disable_licm=True):
        inside, base = start + row < tokens, batch * tokens + start
        low, high = visible_range(first + base, last + base, row, inside, keys)
        if (tl.min(low) < begin + BS) & (tl.max(high) > begin):
            seen = (number[:, None] >= low[None, :]) & (number[:, None] < high[None, :])
            pull = tl.load(slope + base * keys + row[None, :] * keys + number[:, None], mask=seen, other=0.0)
            for head in tl.range(0, H, num_stages=STAGES, disable_licm=True):
                q = tl.load(query + base * (H * D) + head * D + at, mask=inside[:, None], other=0.0)
                factor = tl.load(weights + base * H + head + row * H, mask=inside, other=0.0).to(tl.float32)
                product = tl.dot(k, tl.trans(q), input_precision="ieee")  # [BS, BT]
                grad = tl.where(product > 0, pull * factor[None, :], 0.0)
                sums = tl.dot(grad.to(q.dtype), q, sums, "ieee")
    to = grad_key + batch * keys * D + number[:, None] * D + tl.arange(0, D)[None, :]
    mask = (number < keys)[:, None]
    before = tl.load(to, mask=mask, other=0.0)  # of the queries of earlier launches
    tl.store(to, before + sums * scale, mask=mask)


def ranges(query: Tensor, keys: int, first: Tensor | None, last: Tensor | None) -> tuple[Tensor, Tensor]:
    """The ranges as the kernels read them, [B, T] int32; all keys where none are given."""
    if first is None or last is None:
        every = torch.zeros(query.shape[:2], dtype=torch.int32, device=query.device)
        return every, torch.full_like(every, keys)
    return first.int().contiguous(), last.int().contiguous()


@launch.on_device
def forward(query: Tensor, key: Tensor, weights: Tensor, first: Tensor | None, last: Tensor | None) -> Tensor:
    """As `reference.index_scores`, -inf outside [first, last): [B, T, S] fp32."""
    query, key, weights = query.contiguous(), key.contiguous(), weights.contiguous()
    batch, tokens, heads, dim = query.shape
    keys = key.shape[1]
    scores = query.new_empty(batch, tokens, keys, dtype=torch.float32)
    grid = (batch * triton.cdiv(tokens, FORWARD["BT"]), triton.cdiv(keys, FORWARD["BS"]))
    _forward[grid](
        query, key, weights, *ranges(query, keys, first, last), scores, tokens, keys, dim**-0.5,
        H=heads, D=dim, **FORWARD,
    )  # fmt: skip
    return scores


@launch.on_device
def backward(
    query: Tensor, key: Tensor, weights: Tensor, slope: Tensor, first: Tensor | None, last: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and weights; slope [B, T, S] fp32 is that of the scores, read inside the ranges only."""
    grad_key = torch.zeros_like(key, dtype=torch.float32)
    for_query, for_weights = accumulate(query, key, weights, slope, *ranges(query, key.shape[1], first, last), grad_key)
    return for_query, grad_key.to(key.dtype), for_weights


def accumulate(
    query: Tensor, key: Tensor, weights: Tensor, slope: Tensor, first: Tensor, last: Tensor, grad_key: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of query and weights; that of the keys is added to grad_key [B, S, D] fp32."""
    query, key, weights, slope = query.contiguous(), key.contiguous(), weights.contiguous(), slope.contiguous()
    batch, tokens, heads, dim = query.shape
    keys = key.shape[1]
    grad_query, grad_weights = torch.empty_like(query), torch.empty_like(weights)
    inputs = query, key, weights, slope, first, last
    rows = batch * triton.cdiv(tokens, BY_QUERY["BT"]), heads
    columns = triton.cdiv(keys, BY_KEY["BS"]), batch
    common = {"H": heads, "D": dim}
    _backward_query[rows](*inputs, grad_query, grad_weights, tokens, keys, dim**-0.5, **common, **BY_QUERY)
    _backward_key[columns](*inputs, grad_key, tokens, keys, dim**-0.5, **common, **BY_KEY)
    return grad_query, grad_weights


_INPUTS = {"query": "*bf16", "key": "*bf16", "weights": "*fp32", "first": "*i32", "last": "*i32"}
_SCALARS = {"tokens": "i32", "keys": "i32", "scale": "fp32"}
_GRADS = {"slope": "*fp32", "grad_query": "*bf16", "grad_weights": "*fp32"}


def _case(name: str, kernel: Any, more: dict[str, str], sizes: dict[str, int]) -> Case:
    arguments = {**_INPUTS, **_SCALARS, **more}
    return Case(f"lightning_indexer.{name}", kernel, arguments, {"H": 32, "D": 128, **sizes}, matrix=True)


CASES = [  # GLM-5's 32 index heads of 128
    _case("forward", _forward, {"scores": "*fp32"}, FORWARD),
    _case("backward_query", _backward_query, _GRADS, BY_QUERY),
    _case("backward_key", _backward_key, {"slope": "*fp32", "grad_key": "*fp32"}, BY_KEY),
]
