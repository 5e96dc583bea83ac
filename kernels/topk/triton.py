"""Deterministic selection of keys as Triton kernels: from given scores, or fused with the index scores.

Keys are streamed in blocks. A row keeps the candidates that beat its bound (the k-th best score so far) in a scratch
of CAP slots, appended by a running count, so that the slots always ascend by key. When a row's scratch could overflow,
the k best stay: the k-th best score is found by bisection over the bits of an order-preserving integer, ties go to the
slots that come first, the kept slots move together, and the bound rises. A later key with an equal score does not beat
the bound. So the selection is a pure function of the scores, needs no sort, and comes out ascending.

Memory is 8 * CAP bytes a row of the programs that run at once; no score outlives its tile in the fused form.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels import launch
from kernels.cases import SM80, Case
from kernels.lightning_indexer.scores import load_keys, ranges, score_tile, visible_range

# Queries and keys a tile, rows shrunk together, depth of the pipeline
FUSED = {"BT": 64, "BS": 128, "BR": 1, "STAGES": 2, "num_warps": 8}
FUSED_ON = {SM80: {"BS": 64}}  # operands of its products are in registers: a wider tile spills with triton 3.7
GIVEN = {"BT": 8, "BS": 512, "BR": 1, "num_warps": 8}
SCRATCH_BYTES = 288 << 20  # 144 programs at GLM-5's sizes: enough for every multiprocessor of a Hopper chip


@triton.jit
def _ordered(value):
    """Integers that compare as the floats do."""
    bits = value.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _value(order):
    """The floats of `_ordered`."""
    return (order ^ ((order >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _kth_largest(order, K: tl.constexpr):
    """The largest x that at least K integers of each row reach: order [R, CAP] -> [R]."""
    reach = tl.sum((order >= 0).to(tl.int32), 1)
    found = tl.where(reach >= K, 0, -2147483648)
    for i in tl.range(0, 31, num_stages=1):
        candidate = found | (1 << (30 - i))
        reach = tl.sum((order >= candidate[:, None]).to(tl.int32), 1)
        found = tl.where(reach >= K, candidate, found)
    return found


@triton.jit
def _append(score, seen, number, count, bound, values, places, CAP: tl.constexpr):
    """Adds the tile's scores that beat the bound to the scratch; the new counts."""
    keep = seen & (score > bound[:, None])
    score = tl.where(score == 0, 0.0, score)  # -0.0 and 0.0 tie
    slot = count[:, None] + tl.cumsum(keep.to(tl.int32), 1) - 1
    at = tl.arange(0, score.shape[0])[:, None] * CAP + slot
    tl.store(values + at, score, mask=keep)
    tl.store(places + at, tl.broadcast_to(number[None, :], score.shape), mask=keep)
    return count + tl.sum(keep.to(tl.int32), 1)


@triton.jit
def _shrink(
    count, values, places, counts, bounds, K: tl.constexpr, CAP: tl.constexpr, BT: tl.constexpr, BR: tl.constexpr
):
    """Leaves the K best candidates of every row; the new counts and bounds [BT]."""
    every = tl.arange(0, BT)
    tl.store(counts + every, count)
    tl.debug_barrier()  # what other threads appended is read now
    slot = tl.arange(0, CAP)[None, :]
    for start in tl.range(0, BT, BR, num_stages=1, disable_licm=True):
        row = start + tl.arange(0, BR)
        size = tl.load(counts + row)
        filled, at = slot < size[:, None], row[:, None] * CAP + slot
        order = _ordered(tl.load(values + at, mask=filled, other=float("-inf")))
        place = tl.load(places + at, mask=filled, other=0)
        kth = _kth_largest(order, K)
        above, tied = order > kth[:, None], filled & (order == kth[:, None])
        room = K - tl.sum(above.to(tl.int32), 1)
        keep = above | (tied & (tl.cumsum(tied.to(tl.int32), 1) <= room[:, None]))
        to = row[:, None] * CAP + tl.cumsum(keep.to(tl.int32), 1) - 1
        tl.debug_barrier()  # all slots of these rows are read before the first is written
        tl.store(values + to, _value(order), mask=keep)
        tl.store(places + to, place, mask=keep)
        tl.store(counts + row, tl.minimum(size, K))
        tl.store(bounds + row, _value(kth))
    tl.debug_barrier()
    return tl.load(counts + every), tl.load(bounds + every)


@triton.jit
def _write(count, places, counts, out, rows, K: tl.constexpr, CAP: tl.constexpr, BT: tl.constexpr, BR: tl.constexpr):
    """The candidates as the rows' lists, padded with -1; `rows` of the BT exist."""
    tl.store(counts + tl.arange(0, BT), count)
    tl.debug_barrier()
    slot = tl.arange(0, CAP)[None, :]
    for start in tl.range(0, BT, BR, num_stages=1, disable_licm=True):
        row = start + tl.arange(0, BR)
        size = tl.load(counts + row)[:, None]
        place = tl.load(places + row[:, None] * CAP + slot, mask=slot < size, other=-1)
        tl.store(out + row[:, None] * K + slot, place, mask=(slot < K) & (row < rows)[:, None])
    tl.debug_barrier()  # the scratch serves the program's next rows


@triton.jit
def _fused(
    query, key, weights, first, last, out, values, places, counts, bounds, tokens, keys, total, scale,
    H: tl.constexpr, D: tl.constexpr, K: tl.constexpr, CAP: tl.constexpr,
    BT: tl.constexpr, BS: tl.constexpr, BR: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    mine, row = tl.program_id(0).to(tl.int64) * BT, tl.arange(0, BT)
    values, places, counts, bounds = values + mine * CAP, places + mine * CAP, counts + mine, bounds + mine
    blocks = tl.cdiv(tokens, BT)
    for turn in tl.range(tl.program_id(0), total, tl.num_programs(0), num_stages=1, disable_licm=True):
        block = total - 1 - turn  # late queries see the most keys: they start first
        batch, begin = (block // blocks).to(tl.int64), (block % blocks) * BT
        base, inside = batch * tokens + begin, begin + row < tokens
        low, high = visible_range(first + base, last + base, row, inside, keys)
        count = tl.zeros([BT], tl.int32)
        bound = tl.full([BT], float("-inf"), tl.float32)
        for start in tl.range(tl.min(low) // BS * BS, tl.max(high), BS, num_stages=1, disable_licm=True):
            if tl.max(count) + BS > CAP:
                count, bound = _shrink(count, values, places, counts, bounds, K, CAP, BT, BR)
            number = start + tl.arange(0, BS)
            k = load_keys(key + batch * keys * D, number, keys, D)
            score = score_tile(query + base * (H * D), weights + base * H, inside, k, scale, H, STAGES)
            seen = (number[None, :] >= low[:, None]) & (number[None, :] < high[:, None])
            count = _append(score, seen, number, count, bound, values, places, CAP)
        if tl.max(count) > K:
            count, bound = _shrink(count, values, places, counts, bounds, K, CAP, BT, BR)
        _write(count, places, counts, out + base * K, tokens - begin, K, CAP, BT, BR)


@triton.jit
def _given(
    scores, first, last, out, values, places, counts, bounds, rows, keys,
    K: tl.constexpr, CAP: tl.constexpr, BT: tl.constexpr, BS: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    mine, row = tl.program_id(0).to(tl.int64) * BT, tl.arange(0, BT)
    values, places, counts, bounds = values + mine * CAP, places + mine * CAP, counts + mine, bounds + mine
    for turn in tl.range(0, tl.cdiv(rows - mine, tl.num_programs(0) * BT), num_stages=1, disable_licm=True):
        base = mine + turn * tl.num_programs(0) * BT
        low, high = visible_range(first + base, last + base, row, base + row < rows, keys)
        count = tl.zeros([BT], tl.int32)
        bound = tl.full([BT], float("-inf"), tl.float32)
        for start in tl.range(tl.min(low) // BS * BS, tl.max(high), BS, num_stages=1, disable_licm=True):
            if tl.max(count) + BS > CAP:
                count, bound = _shrink(count, values, places, counts, bounds, K, CAP, BT, BR)
            number = start + tl.arange(0, BS)
            seen = (number[None, :] >= low[:, None]) & (number[None, :] < high[:, None])
            score = tl.load(scores + (base + row)[:, None] * keys + number[None, :], mask=seen, other=float("-inf"))
            count = _append(score, seen, number, count, bound, values, places, CAP)
        if tl.max(count) > K:
            count, bound = _shrink(count, values, places, counts, bounds, K, CAP, BT, BR)
        _write(count, places, counts, out + base * K, rows - base, K, CAP, BT, BR)


def capacity(k: int, block: int) -> int:
    """Slots a row: a power of two with room for the k best, as many newcomers, and a whole block of keys."""
    return int(triton.next_power_of_2(max(2 * k, k + block)))


def _scratch(blocks: int, rows: int, slots: int, like: Tensor) -> tuple[int, tuple[Tensor, ...]]:
    """How many programs share `blocks` blocks of rows, and their (values, places, counts, bounds)."""
    programs = max(1, min(blocks, SCRATCH_BYTES // (8 * slots * rows), launch.multiprocessors(like) or blocks))
    shape, integer = (programs * rows, slots), torch.int32
    values, places = like.new_empty(shape, dtype=torch.float32), like.new_empty(shape, dtype=integer)
    return programs, (values, places, like.new_empty(shape[0], dtype=integer), values.new_empty(shape[0]))


@launch.on_device
def select_keys(scores: Tensor, first: Tensor, last: Tensor, k: int) -> Tensor:
    """As `reference.select_keys`: indices [..., k] int32; scores [..., S] fp32."""
    scores, keys, rows = scores.contiguous(), scores.shape[-1], first.numel()
    out = scores.new_empty(*scores.shape[:-1], k, dtype=torch.int32)
    slots = capacity(k, GIVEN["BS"])
    programs, scratch = _scratch(triton.cdiv(rows, GIVEN["BT"]), GIVEN["BT"], slots, scores)
    limits = first.int().contiguous(), last.int().contiguous()
    _given[(programs,)](scores, *limits, out, *scratch, rows, keys, K=k, CAP=slots, **GIVEN)
    return out


@launch.on_device
def select_keys_fused(query: Tensor, key: Tensor, weights: Tensor, first: Tensor, last: Tensor, k: int) -> Tensor:
    """As `select_keys` of the index scores: query [B, T, H, D], key [B, S, D], weights [B, T, H] -> [B, T, k] int32."""
    batch, tokens, heads, dim = query.shape
    out = query.new_empty(batch, tokens, k, dtype=torch.int32)
    sizes = launch.settings(query, FUSED, FUSED_ON)
    slots, blocks = capacity(k, sizes["BS"]), batch * triton.cdiv(tokens, sizes["BT"])
    programs, scratch = _scratch(blocks, sizes["BT"], slots, query)
    _fused[(programs,)](
        query.contiguous(), key.contiguous(), weights.contiguous(), *ranges(query, key.shape[1], first, last), out,
        *scratch, tokens, key.shape[1], blocks, dim**-0.5, H=heads, D=dim, K=k, CAP=slots, **sizes,
    )  # fmt: skip
    return out


_COMMON = {"first": "*i32", "last": "*i32", "out": "*i32", "values": "*fp32", "places": "*i32", "keys": "i32"}
_COMMON |= {"counts": "*i32", "bounds": "*fp32"}
_FUSED = {"query": "*bf16", "key": "*bf16", "weights": "*fp32", "tokens": "i32", "total": "i32", "scale": "fp32"}
_SIZES: dict[str, Any] = {"K": 2048, "CAP": 4096}

CASES = [  # GLM-5's 32 index heads of 128 and 2048 keys a query
    Case("topk.fused", _fused, {**_COMMON, **_FUSED}, {"H": 32, "D": 128, **_SIZES, **FUSED}, FUSED_ON, matrix=True),
    Case("topk.given", _given, {**_COMMON, "scores": "*fp32", "rows": "i32"}, {**_SIZES, **GIVEN}),
]
