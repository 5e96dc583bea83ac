"""The indexer's loss over all visible keys as Triton kernels (DeepSeek-V3.2, section 2.1.1, the dense warm-up).

For a bounded number of query rows at a time three kernels fill two buffers of rows x keys: the index scores, the
teacher (attention averaged over heads, from the queries, the latents and the logarithms of the softmax sums that
attention has left), and then, in place of the scores, their slope. The kernels of `scores` turn the slope into
gradients. The attention products, nine times the indexer's, are made once; recomputing them tile by tile for rows and
again for columns would save buffers that are bounded anyway.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels import launch
from kernels.cases import SM90, SM100, Case
from kernels.lightning_indexer import scores
from kernels.lightning_indexer.scores import block_start, visible_range
from kernels.tiles import LOG2E, SMALL

TEACHER = {"BT": 64, "BS": 64, "STAGES": 2, "num_warps": 8}  # queries and keys a tile, depth of the pipeline
DIVERGENCE = {"BN": 2048, "num_warps": 16}  # four columns a thread: with eight, registers spill with triton 3.7
BUFFER_BYTES = 512 << 20  # of scores and teacher kept at once: bounds the memory of the loss


@triton.jit
def _teacher(
    query, latent, lse, first, last, teacher, tokens, keys, scale,
    H: tl.constexpr, DV: tl.constexpr, DR: tl.constexpr, BT: tl.constexpr, BS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    D: tl.constexpr = DV + DR
    batch, begin = block_start(tokens, BT)
    base, row = batch * tokens + begin, tl.arange(0, BT)
    inside = begin + row < tokens
    number = tl.program_id(1) * BS + tl.arange(0, BS)
    low, high = visible_range(first + base, last + base, row, inside, keys)
    seen = (number[None, :] >= low[:, None]) & (number[None, :] < high[:, None])
    if tl.max(seen.to(tl.int32)) > 0:  # elsewhere nobody reads the teacher
        of_key = latent + batch * keys * D + number[:, None] * D
        value, rotary = tl.arange(0, DV)[None, :], DV + tl.arange(0, DR)[None, :]
        k = tl.load(of_key + value, mask=(number < keys)[:, None], other=0.0)  # [BS, DV]
        k_rotary = tl.load(of_key + rotary, mask=(number < keys)[:, None], other=0.0)  # [BS, DR]
        total = tl.zeros([BT, BS], tl.float32)
        for head in tl.range(0, H, num_stages=STAGES, disable_licm=True):
            of_query = query + base * (H * D) + head * D + row[:, None] * (H * D)
            q = tl.load(of_query + value, mask=inside[:, None], other=0.0)
            q_rotary = tl.load(of_query + rotary, mask=inside[:, None], other=0.0)
            norm = tl.load(lse + base * H + head + row * H, mask=inside, other=float("inf")) * LOG2E
            score = tl.dot(q_rotary, tl.trans(k_rotary), input_precision="ieee")
            score = tl.dot(q, tl.trans(k), score, "ieee")
            total += tl.exp2(score * (scale * LOG2E) - norm[:, None])
        to = teacher + base * keys + row[:, None].to(tl.int64) * keys + number[None, :]
        tl.store(to, total / H, mask=seen)


@triton.jit
def _lse(
    query, latent, first, last, lse, tokens, keys, scale,
    H: tl.constexpr, DV: tl.constexpr, DR: tl.constexpr, BT: tl.constexpr, BS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """A block of queries and one head, over the keys that any of the queries sees."""
    D: tl.constexpr = DV + DR
    batch, begin = block_start(tokens, BT)
    base, row = batch * tokens + begin, tl.arange(0, BT)
    inside = begin + row < tokens
    low, high = visible_range(first + base, last + base, row, inside, keys)
    value, rotary = tl.arange(0, DV)[None, :], DV + tl.arange(0, DR)[None, :]
    of_query = query + base * (H * D) + tl.program_id(1) * D + row[:, None] * (H * D)
    q = tl.load(of_query + value, mask=inside[:, None], other=0.0)  # [BT, DV]
    q_rotary = tl.load(of_query + rotary, mask=inside[:, None], other=0.0)
    top = tl.full([BT], float("-inf"), tl.float32)
    total = tl.zeros([BT], tl.float32)
    for start in tl.range(tl.min(low) // BS * BS, tl.max(high), BS, num_stages=STAGES, disable_licm=True):
        number = start + tl.arange(0, BS)
        of_key = latent + batch * keys * D + number[:, None] * D
        k = tl.load(of_key + value, mask=(number < keys)[:, None], other=0.0)  # [BS, DV]
        k_rotary = tl.load(of_key + rotary, mask=(number < keys)[:, None], other=0.0)
        score = tl.dot(q_rotary, tl.trans(k_rotary), input_precision="ieee")
        score = tl.dot(q, tl.trans(k), score, "ieee") * (scale * LOG2E)
        seen = (number[None, :] >= low[:, None]) & (number[None, :] < high[:, None])
        score = tl.where(seen, score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, 1))
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp2(top - safe) + tl.sum(tl.exp2(score - safe[:, None]), 1)
        top = higher
    found = tl.where(total > 0, (top + tl.log2(tl.where(total > 0, total, 1.0))) / LOG2E, float("-inf"))
    tl.store(lse + base * H + tl.program_id(1) + row * H, found, mask=inside)


@triton.jit
def _divergence(scores, teacher, loss, columns, weight, BN: tl.constexpr):
    """One row: KL(teacher || softmax(scores)) and, in place of the scores, its slope times `weight`."""
    row = tl.program_id(0).to(tl.int64)
    scores, teacher = scores + row * columns, teacher + row * columns
    top = tl.full([BN], float("-inf"), tl.float32)
    total = tl.zeros([BN], tl.float32)
    mass = tl.zeros([BN], tl.float32)
    for start in tl.range(0, columns, BN, num_stages=1):
        number = start + tl.arange(0, BN)
        score = tl.load(scores + number, mask=number < columns, other=float("-inf"))
        seen = score > float("-inf")
        mass += tl.load(teacher + number, mask=seen, other=0.0)
        higher = tl.maximum(top, score)
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(top - safe) + tl.exp(score - safe)
        top = higher
    highest = tl.max(top)
    safe = tl.where(highest == float("-inf"), 0.0, highest)
    sums = tl.sum(total * tl.exp(top - safe))
    norm = safe + tl.log(tl.where(sums > 0, sums, 1.0))
    whole = tl.sum(mass)
    parts = tl.zeros([BN], tl.float32)
    for start in tl.range(0, columns, BN, num_stages=1):
        number = start + tl.arange(0, BN)
        score = tl.load(scores + number, mask=number < columns, other=float("-inf"))
        seen = score > float("-inf")
        p = tl.load(teacher + number, mask=seen, other=0.0)
        student = tl.where(seen, score - norm, 0.0)  # its logarithm
        parts += tl.where(p > 0, p * (tl.log(tl.where(p > 0, p, 1.0)) - student), 0.0)
        slope = tl.where(seen, tl.exp(student) * whole - p, 0.0) * weight
        tl.store(scores + number, slope, mask=number < columns)
    tl.store(loss + row, tl.sum(parts))


def divergence(scores: Tensor, teacher: Tensor, count: int) -> Tensor:
    """KL of every row [...] of scores and teacher [..., N]; the scores become the slopes of the sum over `count`."""
    loss = scores.new_empty(scores.shape[:-1])
    grid = (loss.numel(),)
    _divergence[grid](scores, teacher, loss, scores.shape[-1], 1.0 / count, **DIVERGENCE)
    return loss


def tile(query: Tensor) -> dict[str, int]:
    """`TEACHER` where tiles of bf16 fit, smaller ones for fp32."""
    return {**TEACHER, "BT": SMALL, "BS": SMALL, "STAGES": 1} if launch.is_wide(query) else TEACHER


def halves(width: int) -> dict[str, int]:
    """A width as the sum of two powers of two, the larger first: 576 = 512 + 64."""
    value = int(triton.next_power_of_2(width)) // 2
    return {"DV": value, "DR": width - value}


@launch.on_device
def attention_lse(query: Tensor, latent: Tensor, first: Tensor, last: Tensor, scale: float) -> Tensor:
    """log sum exp(scale * q . k) over the visible keys, -inf where there are none: [B, R, Ha] fp32.

    query [B, R, Ha, D], latent [B, S, D]; first and last [B, R].
    """
    query, latent = query.contiguous(), latent.contiguous()
    batch, tokens, heads, width = query.shape
    lse = query.new_empty(batch, tokens, heads, dtype=torch.float32)
    limits, sizes = (first.int().contiguous(), last.int().contiguous()), tile(query)
    grid = (batch * triton.cdiv(tokens, sizes["BT"]), heads)
    sizes = {"H": heads, **halves(width), **sizes}
    _lse[grid](query, latent, *limits, lse, tokens, latent.shape[1], scale, **sizes)
    return lse


def dense_teacher(query: Tensor, latent: Tensor, lse: Tensor, first: Tensor, last: Tensor, scale: float) -> Tensor:
    """mean over heads of exp(scale * q . k - lse) at the visible keys: [B, R, S] fp32, undefined elsewhere.

    query [B, R, Ha, D], latent [B, S, D], lse [B, R, Ha]; first and last [B, R] int32. All contiguous.
    """
    batch, tokens, heads, width = query.shape
    keys = latent.shape[1]
    teacher = query.new_empty(batch, tokens, keys, dtype=torch.float32)
    sizes = tile(query)
    grid = (batch * triton.cdiv(tokens, sizes["BT"]), triton.cdiv(keys, sizes["BS"]))
    _teacher[grid](query, latent, lse, first, last, teacher, tokens, keys, scale, H=heads, **halves(width), **sizes)
    return teacher


@launch.on_device
def dense_loss(
    index: tuple[Tensor, Tensor, Tensor], attention: tuple[Tensor, Tensor, Tensor], first: Tensor, last: Tensor,
    scale: float, learns: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """(loss, gradients of the index query, key and weights); no gradients where the indexer does not learn.

    index: query [B, R, H, D], key [B, S, D], weights [B, R, H]; attention: query, latent and lse as `dense_teacher`.
    """
    (query, key, weights), (attention_query, latent, lse) = index, attention
    batch, rows, keys = query.shape[0], query.shape[1], key.shape[1]
    grad_query, grad_weights = torch.empty_like(query), torch.empty_like(weights)
    grad_key = torch.zeros_like(key, dtype=torch.float32)
    total = query.new_zeros((), dtype=torch.float32)
    chunk = max(1, min(rows, BUFFER_BYTES // (8 * batch * keys)))
    for start in range(0, rows, chunk):
        part = slice(start, min(start + chunk, rows))
        limits = first[:, part].int().contiguous(), last[:, part].int().contiguous()
        score = scores.forward(query[:, part], key, weights[:, part], *limits)
        of_attention = attention_query[:, part].contiguous(), latent.contiguous(), lse[:, part].contiguous()
        teacher = dense_teacher(*of_attention, *limits, scale)
        total += divergence(score, teacher, batch * rows).sum()
        if learns:
            grads = scores.accumulate(query[:, part], key, weights[:, part], score, *limits, grad_key)
            grad_query[:, part], grad_weights[:, part] = grads
    loss = total / (batch * rows)
    return (loss, grad_query, grad_key.to(key.dtype), grad_weights) if learns else (loss,)


_TEACHER = {"query": "*bf16", "latent": "*bf16", "lse": "*fp32", "first": "*i32", "last": "*i32", "teacher": "*fp32"}
_TEACHER |= {"tokens": "i32", "keys": "i32", "scale": "fp32"}
_DIVERGENCE = {"scores": "*fp32", "teacher": "*fp32", "loss": "*fp32", "columns": "i32", "weight": "fp32"}
_SUMS = {name: kind for name, kind in _TEACHER.items() if name != "teacher"}
_SIZES: dict[str, Any] = {"H": 64, "DV": 512, "DR": 64, **TEACHER}

CASES = [  # tiles of 64 x 576 do not fit into the shared memory of sm_80
    Case("lightning_indexer.teacher", _teacher, _TEACHER, _SIZES, matrix=True, targets=(SM90, SM100)),
    Case("lightning_indexer.lse", _lse, _SUMS, _SIZES, matrix=True, targets=(SM90, SM100)),
    Case("lightning_indexer.divergence", _divergence, _DIVERGENCE, DIVERGENCE),
]
