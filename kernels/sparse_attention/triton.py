"""Sparse attention over latents as Triton kernels, forward and backward: MLA in its multi-query form.

One program owns one query token and a block of its heads. All of them attend to the same listed keys, so the rows of
the latent are gathered once for the block, and every product is a tensor-core product with heads as rows: the online
softmax of FlashAttention-2 (Dao, arXiv 2307.08691) over a gathered key axis.

Backward is three kernels. `_mean_slope` takes sum_v out * grad_out. `_backward_latent` recomputes the weights, adds to
each key's gradient by fp32 atomic additions (several queries list the same key: nothing is lost, and only the order
of the sum varies from run to run) and stores the slopes of the scores; `_backward_query` multiplies the slopes with
the gathered latents, and no other program writes where it writes.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels import launch
from kernels.cases import SM90, SM100, Case, Settings
from kernels.tiles import LOG2E, head_rows, keys_of

FORWARD = {"BK": 64, "STAGES": 2, "num_warps": 8, "num_stages": 2}  # keys a step, depth of the pipeline
FORWARD_ON = {SM100: {"BK": 32}}  # triton before 3.9 keeps four blocks of keys there where it keeps two on Hopper
MEAN = {"BR": 16, "num_warps": 4}  # rows a program
LATENT = {"BK": 32, "STAGES": 1, "num_warps": 8, "num_stages": 1}
QUERY = {"BK": 32, "STAGES": 3, "num_warps": 8, "num_stages": 3}
SLOPE_BYTES = 256 << 20  # of slopes kept at once: bounds the memory of the backward pass


@triton.jit
def _forward(
    query, latent, index, out, lse, tokens, keys, scale,
    H: tl.constexpr, DV: tl.constexpr, DR: tl.constexpr, K: tl.constexpr, BH: tl.constexpr, BK: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)  # token of batch * tokens
    head = tl.program_id(1) * BH + tl.arange(0, BH)
    base = latent + (row // tokens) * keys * (DV + DR)
    value, rotary = tl.arange(0, DV)[None, :], DV + tl.arange(0, DR)[None, :]
    inside, place = (head < H)[:, None], row * H + head
    q = tl.load(query + place[:, None] * (DV + DR) + value, mask=inside, other=0.0)  # [BH, DV]
    q_rotary = tl.load(query + place[:, None] * (DV + DR) + rotary, mask=inside, other=0.0)  # [BH, DR]
    top = tl.full([BH], float("-inf"), tl.float32)
    total = tl.zeros([BH], tl.float32)
    sums = tl.zeros([BH, DV], tl.float32)
    # Without `disable_licm` the addresses of q in shared memory are hoisted into registers that are not there
    for start in tl.range(0, K, BK, num_stages=STAGES, disable_licm=True):
        column = start + tl.arange(0, BK)
        key = tl.load(index + row * K + column, mask=column < K, other=-1)
        listed = key >= 0
        at = base + tl.maximum(key, 0).to(tl.int64)[:, None] * (DV + DR)
        k = tl.load(at + value, mask=listed[:, None], other=0.0)  # [BK, DV], the values too
        k_rotary = tl.load(at + rotary, mask=listed[:, None], other=0.0)  # [BK, DR]
        score = tl.dot(q_rotary, tl.trans(k_rotary), tl.dot(q, tl.trans(k), input_precision="ieee"), "ieee")
        score = tl.where(listed[None, :], score * (scale * LOG2E), float("-inf"))  # [BH, BK]
        higher = tl.maximum(top, tl.max(score, 1))
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        weight = tl.exp2(score - safe[:, None])
        shrink = tl.exp2(top - safe)
        total = total * shrink + tl.sum(weight, 1)
        sums = tl.dot(weight.to(k.dtype), k, sums * shrink[:, None], "ieee")
        top = higher
    some = tl.where(total > 0, total, 1.0)
    tl.store(out + place[:, None] * DV + value, (sums / some[:, None]).to(out.dtype.element_ty), mask=inside)
    tl.store(lse + place, tl.where(total > 0, (top + tl.log2(some)) / LOG2E, float("-inf")), mask=head < H)


@triton.jit
def _mean_slope(out, grad_out, mean, rows, DV: tl.constexpr, BR: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)
    inside, at = row < rows, row[:, None] * DV + tl.arange(0, DV)[None, :]
    left = tl.load(out + at, mask=inside[:, None], other=0.0).to(tl.float32)
    right = tl.load(grad_out + at, mask=inside[:, None], other=0.0).to(tl.float32)
    tl.store(mean + row, tl.sum(left * right, 1), mask=inside)


@triton.jit
def _add(slope, weight, q, g, to, listed):
    """Adds slope^T q + weight^T g to the gathered rows; the products are made transposed, with columns as rows."""
    grad = tl.dot(tl.trans(g), weight, tl.dot(tl.trans(q), slope, input_precision="ieee"), "ieee")  # [C, BK]
    tl.atomic_add(to, tl.trans(grad), mask=listed[:, None], sem="relaxed")


@triton.jit
def _backward_latent(
    query, latent, index, lse, mean, grad_out, slopes, grad_latent, first, tokens, keys, scale,
    H: tl.constexpr, DV: tl.constexpr, DR: tl.constexpr, K: tl.constexpr, BH: tl.constexpr, BK: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    C: tl.constexpr = DV // 4  # a quarter of the columns at a time: their gradient has to fit into registers
    D: tl.constexpr = DV + DR
    row = first + tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BH + tl.arange(0, BH)
    base = (row // tokens) * keys * D
    column, rotary = tl.arange(0, C)[None, :], DV + tl.arange(0, DR)[None, :]
    inside, place = (head < H)[:, None], row * H + head
    of_query, of_grad = query + place[:, None] * D, grad_out + place[:, None] * DV
    q0 = tl.load(of_query + column, mask=inside, other=0.0)  # [BH, C]
    q1 = tl.load(of_query + C + column, mask=inside, other=0.0)
    q2 = tl.load(of_query + 2 * C + column, mask=inside, other=0.0)
    q3 = tl.load(of_query + 3 * C + column, mask=inside, other=0.0)
    q_rotary = tl.load(of_query + rotary, mask=inside, other=0.0)  # [BH, DR]
    g0 = tl.load(of_grad + column, mask=inside, other=0.0)
    g1 = tl.load(of_grad + C + column, mask=inside, other=0.0)
    g2 = tl.load(of_grad + 2 * C + column, mask=inside, other=0.0)
    g3 = tl.load(of_grad + 3 * C + column, mask=inside, other=0.0)
    norm = tl.load(lse + place, mask=head < H, other=float("-inf")) * LOG2E
    norm = tl.where(norm == float("-inf"), float("inf"), norm)[:, None]  # no key listed: all weights are 0
    middle = tl.load(mean + place, mask=head < H, other=0.0)[:, None]
    for start in tl.range(0, K, BK, num_stages=STAGES, disable_licm=True):
        number = start + tl.arange(0, BK)
        key = tl.load(index + row * K + number, mask=number < K, other=-1)
        listed = key >= 0
        at = base + tl.maximum(key, 0).to(tl.int64)[:, None] * D
        k0 = tl.load(latent + at + column, mask=listed[:, None], other=0.0)  # [BK, C]
        k1 = tl.load(latent + at + C + column, mask=listed[:, None], other=0.0)
        k2 = tl.load(latent + at + 2 * C + column, mask=listed[:, None], other=0.0)
        k3 = tl.load(latent + at + 3 * C + column, mask=listed[:, None], other=0.0)
        k_rotary = tl.load(latent + at + rotary, mask=listed[:, None], other=0.0)  # [BK, DR]
        score = tl.dot(q_rotary, tl.trans(k_rotary), input_precision="ieee")
        score = tl.dot(q0, tl.trans(k0), score, "ieee")
        score = tl.dot(q1, tl.trans(k1), score, "ieee")
        score = tl.dot(q2, tl.trans(k2), score, "ieee")
        score = tl.dot(q3, tl.trans(k3), score, "ieee")
        pull = tl.dot(g0, tl.trans(k0), input_precision="ieee")
        pull = tl.dot(g1, tl.trans(k1), pull, "ieee")
        pull = tl.dot(g2, tl.trans(k2), pull, "ieee")
        pull = tl.dot(g3, tl.trans(k3), pull, "ieee")
        weight = tl.where(listed[None, :], tl.exp2(score * (scale * LOG2E) - norm), 0.0)  # [BH, BK]
        slope = (weight * (pull - middle) * scale).to(k0.dtype)
        weight = weight.to(k0.dtype)
        to_slopes = slopes + (tl.program_id(0).to(tl.int64) * H + head)[:, None] * K + number[None, :]
        tl.store(to_slopes, slope, mask=inside & (number < K)[None, :])
        to = grad_latent + at
        _add(slope, weight, q0, g0, to + column, listed)
        _add(slope, weight, q1, g1, to + C + column, listed)
        _add(slope, weight, q2, g2, to + 2 * C + column, listed)
        _add(slope, weight, q3, g3, to + 3 * C + column, listed)
        grad = tl.trans(tl.dot(tl.trans(q_rotary), slope, input_precision="ieee"))
        tl.atomic_add(to + rotary, grad, mask=listed[:, None], sem="relaxed")


@triton.jit
def _backward_query(
    slopes, latent, index, grad_query, first, tokens, keys,
    H: tl.constexpr, DV: tl.constexpr, DR: tl.constexpr, K: tl.constexpr, BH: tl.constexpr, BK: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    row = first + tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BH + tl.arange(0, BH)
    base = latent + (row // tokens) * keys * (DV + DR)
    value, rotary = tl.arange(0, DV)[None, :], DV + tl.arange(0, DR)[None, :]
    inside = (head < H)[:, None]
    of_slopes = slopes + (tl.program_id(0).to(tl.int64) * H + head)[:, None] * K
    sums = tl.zeros([BH, DV], tl.float32)
    sums_rotary = tl.zeros([BH, DR], tl.float32)
    for start in tl.range(0, K, BK, num_stages=STAGES, disable_licm=True):
        number = start + tl.arange(0, BK)
        key = tl.load(index + row * K + number, mask=number < K, other=-1)
        listed = key >= 0
        at = base + tl.maximum(key, 0).to(tl.int64)[:, None] * (DV + DR)
        slope = tl.load(of_slopes + number[None, :], mask=inside & listed[None, :], other=0.0)  # [BH, BK]
        k = tl.load(at + value, mask=listed[:, None], other=0.0)
        k_rotary = tl.load(at + rotary, mask=listed[:, None], other=0.0)
        sums = tl.dot(slope, k, sums, "ieee")
        sums_rotary = tl.dot(slope, k_rotary, sums_rotary, "ieee")
    to = grad_query + (row * H + head)[:, None] * (DV + DR)
    tl.store(to + value, sums.to(grad_query.dtype.element_ty), mask=inside)
    tl.store(to + rotary, sums_rotary.to(grad_query.dtype.element_ty), mask=inside)


def _sizes(query: Tensor, value_dim: int, topk: int, settings: Settings) -> dict[str, Any]:
    """All that a launch needs; query [B, T, H, D]."""
    heads, width = query.shape[2:]
    shape = {"H": heads, "DV": value_dim, "DR": width - value_dim, "K": topk, "BH": head_rows(query)}
    return {**settings, **shape, "BK": keys_of(query, settings["BK"])}


@launch.on_device
def forward(query: Tensor, latent: Tensor, index: Tensor, scale: float, value_dim: int) -> tuple[Tensor, Tensor]:
    """As `reference.sparse_mla`: (out [B, T, H, value_dim], lse [B, T, H] fp32)."""
    query, latent, index = query.contiguous(), latent.contiguous(), index.contiguous()
    batch, tokens, heads, _ = query.shape
    out = query.new_empty(batch, tokens, heads, value_dim)
    lse = query.new_empty(batch, tokens, heads, dtype=torch.float32)
    sizes = _sizes(query, value_dim, index.shape[2], launch.settings(query, FORWARD, FORWARD_ON))
    grid = (batch * tokens, triton.cdiv(heads, sizes["BH"]))
    _forward[grid](query, latent, index, out, lse, tokens, latent.shape[1], scale, **sizes)
    return out, lse


@launch.on_device
def backward(
    query: Tensor, latent: Tensor, index: Tensor, out: Tensor, lse: Tensor, grad_out: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Gradients of query [B, T, H, D] and latent [B, S, D]."""
    query, latent, index, grad_out = query.contiguous(), latent.contiguous(), index.contiguous(), grad_out.contiguous()
    rows, heads, topk, keys = query.shape[0] * query.shape[1], query.shape[2], index.shape[2], latent.shape[1]
    grad_query, grad_latent = torch.empty_like(query), torch.zeros_like(latent, dtype=torch.float32)
    mean = torch.empty_like(lse)
    _mean_slope[(triton.cdiv(rows * heads, MEAN["BR"]),)](out, grad_out, mean, rows * heads, DV=out.shape[3], **MEAN)
    of_latent, of_query = (_sizes(query, out.shape[3], topk, settings) for settings in (LATENT, QUERY))
    chunk = max(1, min(rows, SLOPE_BYTES // (heads * topk * query.element_size())))
    slopes = query.new_empty(chunk, heads, topk)
    for first in range(0, rows, chunk):
        grid, counts = (min(chunk, rows - first), triton.cdiv(heads, of_query["BH"])), (query.shape[1], keys)
        _backward_latent[grid](
            query, latent, index, lse, mean, grad_out, slopes, grad_latent, first, *counts, scale, **of_latent
        )
        _backward_query[grid](slopes, latent, index, grad_query, first, *counts, **of_query)
    return grad_query, grad_latent.to(latent.dtype)


_POINTERS = {"query": "*bf16", "latent": "*bf16", "index": "*i32", "lse": "*fp32", "grad_out": "*bf16"}
_COUNTS = {"tokens": "i32", "keys": "i32"}
_LATENT = {**_POINTERS, "mean": "*fp32", "slopes": "*bf16", "grad_latent": "*fp32", "first": "i32", **_COUNTS}
_QUERY = {"slopes": "*bf16", "latent": "*bf16", "index": "*i32", "grad_query": "*bf16", "first": "i32", **_COUNTS}
_MEAN = {"out": "*bf16", "grad_out": "*bf16", "mean": "*fp32", "rows": "i32"}
_FORWARD = {**_POINTERS, "out": "*bf16", **_COUNTS, "scale": "fp32"}
del _FORWARD["grad_out"]


def _case(name: str, kernel: Any, arguments: dict[str, str], heads: int, sizes: Settings, **more: Any) -> Case:
    sizes = {**sizes, "H": heads, "DV": 512, "DR": 64, "K": 2048, "BH": 64}
    return Case(f"sparse_attention.{name}", kernel, arguments, sizes, matrix=True, targets=(SM90, SM100), **more)


CASES = [  # GLM-5's shapes; a block of 64 heads x 576 does not fit into the shared memory of sm_80
    _case("forward", _forward, _FORWARD, 128, FORWARD, on_chip=FORWARD_ON),
    Case("sparse_attention.mean_slope", _mean_slope, _MEAN, {**MEAN, "DV": 512}),
    _case("backward_latent", _backward_latent, {**_LATENT, "scale": "fp32"}, 64, LATENT),
    _case("backward_query", _backward_query, _QUERY, 64, QUERY),
]
