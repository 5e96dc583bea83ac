"""A decoding step's sparse attention as Triton kernels: split over the keys, then combined.

One new token a sequence is little work for a chip: at batch 1 there would be one program. So the list of a sequence
is cut into shares (Flash-Decoding, Dao et al., 2023): one program owns a sequence, a block of its heads and a share,
and stores that share's softmax and its log-sum-exp; `_combine` weighs the shares with these. There are as many shares
as multiprocessors are free; with one share that kernel writes the result itself. `_slots` turns positions into rows of
the cache first: the two dependent loads it takes would cost the loop over the keys registers that it does not have.
No atomics: the same batch gives the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels import launch
from kernels.cases import SM90, SM100, Case
from kernels.sparse_decode.share import BLOCK, steps_of
from kernels.tiles import LOG2E, head_rows, keys_of

SLOTS = {"BK": 256}  # listed positions a program
SHARES = {"BK": BLOCK, "STAGES": 2, "num_warps": 8, "num_stages": 2}
SHARES_ON = {SM100: {"BK": 32}}  # triton before 3.9 keeps four blocks of keys there where it keeps two on Hopper
COMBINE = {"BS": 4, "num_warps": 4}  # shares a step


@triton.jit
def _slots(page_table, index, slots, columns, K: tl.constexpr, PAGE: tl.constexpr, BK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)  # sequence
    number = tl.program_id(1) * BK + tl.arange(0, BK)
    position = tl.load(index + row * K + number, mask=number < K, other=-1)
    listed = position >= 0
    position = tl.where(listed, position, 0)
    page = tl.load(page_table + row * columns + position // PAGE, mask=listed, other=0)
    tl.store(slots + row * K + number, tl.where(listed, page * PAGE + position % PAGE, -1), mask=number < K)


@triton.jit
def _shares(
    query, rows, slots, out, lse, steps, batch, scale,
    H: tl.constexpr, DV: tl.constexpr, DR: tl.constexpr, K: tl.constexpr, BH: tl.constexpr, BK: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    D: tl.constexpr = DV + DR
    row = tl.program_id(0).to(tl.int64)  # sequence
    head = tl.program_id(1) * BH + tl.arange(0, BH)
    begin = tl.program_id(2) * steps * BK
    value, rotary = tl.arange(0, DV)[None, :], DV + tl.arange(0, DR)[None, :]
    inside, place = (head < H)[:, None], row * H + head
    q = tl.load(query + place[:, None] * D + value, mask=inside, other=0.0)  # [BH, DV]
    q_rotary = tl.load(query + place[:, None] * D + rotary, mask=inside, other=0.0)  # [BH, DR]
    top = tl.full([BH], float("-inf"), tl.float32)
    total = tl.zeros([BH], tl.float32)
    sums = tl.zeros([BH, DV], tl.float32)
    # Without `disable_licm` the addresses of q in shared memory are hoisted into registers that are not there
    for start in tl.range(begin, tl.minimum(begin + steps * BK, K), BK, num_stages=STAGES, disable_licm=True):
        number = start + tl.arange(0, BK)
        slot = tl.load(slots + row * K + number, mask=number < K, other=-1)
        listed = slot >= 0
        at = rows + tl.maximum(slot, 0).to(tl.int64)[:, None] * D
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
    place += tl.program_id(2).to(tl.int64) * batch * H
    tl.store(out + place[:, None] * DV + value, (sums * (1.0 / some)[:, None]).to(out.dtype.element_ty), mask=inside)
    tl.store(lse + place, tl.where(total > 0, (top + tl.log2(some)) / LOG2E, float("-inf")), mask=head < H)


@triton.jit
def _combine(parts, part_lse, out, lse, shares, rows, DV: tl.constexpr, BS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)  # of batch * heads
    column = tl.arange(0, DV)
    top = float("-inf")
    total = 0.0
    sums = tl.zeros([DV], tl.float32)
    for start in range(0, shares, BS):
        number = start + tl.arange(0, BS)
        place = number.to(tl.int64) * rows + row
        norm = tl.load(part_lse + place, mask=number < shares, other=float("-inf")) * LOG2E
        part = tl.load(parts + place[:, None] * DV + column[None, :], mask=(number < shares)[:, None], other=0.0)
        higher = tl.maximum(top, tl.max(norm, 0))
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        weight = tl.exp2(norm - safe)
        shrink = tl.exp2(top - safe)
        total = total * shrink + tl.sum(weight, 0)
        sums = sums * shrink + tl.sum(part * weight[:, None], 0)
        top = higher
    some = tl.where(total > 0, total, 1.0)
    tl.store(out + row * DV + column, (sums / some).to(out.dtype.element_ty))
    tl.store(lse + row, tl.where(total > 0, (top + tl.log2(some)) / LOG2E, float("-inf")))


@launch.on_device
def forward(
    query: Tensor, pages: Tensor, page_table: Tensor, index: Tensor, scale: float, value_dim: int,
    multiprocessors: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As `reference.sparse_decode`: (out [B, H, value_dim], lse [B, H] fp32). multiprocessors: those of the device."""
    query, pages, slots = query.contiguous(), pages.contiguous(), cache_rows(page_table, index, pages.shape[1])
    batch, heads, width = query.shape
    sizes = launch.settings(query, SHARES, SHARES_ON)
    block, keys = head_rows(query), keys_of(query, sizes["BK"])
    blocks, topk = triton.cdiv(heads, block), index.shape[1]
    steps = steps_of(topk, batch * blocks, multiprocessors or launch.multiprocessors(query) or 1, keys)
    shares = max(1, triton.cdiv(topk, steps * keys))
    out, lse = query.new_empty(batch, heads, value_dim), query.new_empty(batch, heads, dtype=torch.float32)
    parts, part_lse = (out, lse) if shares == 1 else _parts(shares, out)
    _shares[batch, blocks, shares](
        query, pages, slots, parts, part_lse, steps, batch, scale,
        **{**sizes, "H": heads, "DV": value_dim, "DR": width - value_dim, "K": topk, "BH": block, "BK": keys},
    )  # fmt: skip
    if shares > 1:
        _combine[(batch * heads,)](parts, part_lse, out, lse, shares, batch * heads, DV=value_dim, **COMBINE)
    return out, lse


def cache_rows(page_table: Tensor, index: Tensor, page: int) -> Tensor:
    """The row of the flattened pages that holds each listed position, [B, K] int32, -1 for padding."""
    page_table, index = page_table.contiguous(), index.contiguous()
    slots = torch.empty_like(index)
    batch, topk = index.shape
    grid = (batch, max(1, triton.cdiv(topk, SLOTS["BK"])))
    _slots[grid](page_table, index, slots, page_table.shape[1], K=topk, PAGE=page, **SLOTS)
    return slots


def _parts(shares: int, out: Tensor) -> tuple[Tensor, Tensor]:
    """Room for every share's result in fp32: [shares, B, H, value_dim] and [shares, B, H]."""
    parts = out.new_empty(shares, *out.shape, dtype=torch.float32)
    return parts, parts.new_empty(parts.shape[:-1])


_SLOTS = {"page_table": "*i32", "index": "*i32", "slots": "*i32", "columns": "i32"}
_TENSORS = {"query": "*bf16", "rows": "*bf16", "slots": "*i32", "lse": "*fp32"}
_COUNTS = {"steps": "i32", "batch": "i32", "scale": "fp32"}
_SHAPE = {**SHARES, "H": 64, "DV": 512, "DR": 64, "K": 2048, "BH": 64}
_COMBINE = {"parts": "*fp32", "part_lse": "*fp32", "out": "*bf16", "lse": "*fp32", "shares": "i32", "rows": "i32"}


def _case(name: str, out: str) -> Case:
    arguments = {**_TENSORS, "out": out, **_COUNTS}
    return Case(f"sparse_decode.{name}", _shares, arguments, _SHAPE, SHARES_ON, matrix=True, targets=(SM90, SM100))


CASES = [  # GLM-5's shapes; a block of 64 heads x 576 does not fit into the shared memory of sm_80
    Case("sparse_decode.slots", _slots, _SLOTS, {**SLOTS, "K": 2048, "PAGE": 64}),
    _case("shares", "*fp32"),
    _case("whole", "*bf16"),
    Case("sparse_decode.combine", _combine, _COMBINE, {**COMBINE, "DV": 512}),
]
