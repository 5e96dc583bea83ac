"""The indexer's loss over listed keys as Triton kernels (DeepSeek-V3.2, section 2.1.1, the sparse training stage).

One program owns one query. Its listed keys are gathered in blocks, as rows of tensor-core products whose columns are
heads. Two kernels write the index scores and the teacher's values of the list, buffers of [B, R, K]; the divergence
turns the scores into slopes; the backward kernel sums the gradients of query and weights on chip and adds those of
the keys by fp32 atomic additions: several queries list the same key, nothing is lost, and only the order of a sum
varies from run to run.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels import launch
from kernels.cases import SM90, SM100, Case
from kernels.lightning_indexer.teacher import divergence, halves
from kernels.tiles import LOG2E, SMALL, head_rows

SCORES = {"BK": 128, "STAGES": 3, "num_warps": 8}  # listed keys a block, depth of the pipeline
TEACHER = {"BK": 64, "STAGES": 2, "num_warps": 8}
BACKWARD = {"BK": 64, "STAGES": 2, "num_warps": 8}


@triton.jit
def _listed(index, row, start, K: tl.constexpr, BK: tl.constexpr):
    """The numbers in the list, the keys and whether they are listed, of one block."""
    number = start + tl.arange(0, BK)
    key = tl.load(index + row * K + number, mask=number < K, other=-1)
    return number, tl.where(key >= 0, key, 0).to(tl.int64), key >= 0


@triton.jit
def _scores(
    query, key, weights, index, scores, tokens, keys, scale,
    H: tl.constexpr, D: tl.constexpr, K: tl.constexpr, BH: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    base = key + (row // tokens) * keys * D
    head, column = tl.arange(0, BH), tl.arange(0, D)[None, :]
    q = tl.load(query + row * (H * D) + head[:, None] * D + column, mask=(head < H)[:, None], other=0.0)
    weight = tl.load(weights + row * H + head, mask=head < H, other=0.0).to(tl.float32)
    for start in tl.range(0, K, BK, num_stages=STAGES, disable_licm=True):
        number, chosen, listed = _listed(index, row, start, K, BK)
        k = tl.load(base + chosen[:, None] * D + column, mask=listed[:, None], other=0.0)  # [BK, D]
        product = tl.dot(k, tl.trans(q), input_precision="ieee")  # [BK, BH]
        score = tl.sum(tl.maximum(product, 0.0) * weight[None, :], 1) * scale
        tl.store(scores + row * K + number, tl.where(listed, score, float("-inf")), mask=number < K)


@triton.jit
def _teacher(
    query, latent, lse, index, teacher, tokens, keys, scale,
    H: tl.constexpr, DV: tl.constexpr, DR: tl.constexpr, K: tl.constexpr, BH: tl.constexpr, BK: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    D: tl.constexpr = DV + DR
    row = tl.program_id(0).to(tl.int64)
    base = latent + (row // tokens) * keys * D
    value, rotary = tl.arange(0, DV)[None, :], DV + tl.arange(0, DR)[None, :]
    for block in tl.range(0, H, BH, num_stages=1, disable_licm=True):
        head = block + tl.arange(0, BH)
        of_query, inside = query + row * (H * D) + head[:, None] * D, (head < H)[:, None]
        q = tl.load(of_query + value, mask=inside, other=0.0)
        q_rotary = tl.load(of_query + rotary, mask=inside, other=0.0)
        norm = tl.load(lse + row * H + head, mask=head < H, other=float("inf")) * LOG2E
        for start in tl.range(0, K, BK, num_stages=STAGES, disable_licm=True):
            number, chosen, listed = _listed(index, row, start, K, BK)
            k = tl.load(base + chosen[:, None] * D + value, mask=listed[:, None], other=0.0)  # [BK, DV]
            k_rotary = tl.load(base + chosen[:, None] * D + rotary, mask=listed[:, None], other=0.0)
            score = tl.dot(k_rotary, tl.trans(q_rotary), input_precision="ieee")
            score = tl.dot(k, tl.trans(q), score, "ieee")  # [BK, BH]
            weight = tl.sum(tl.exp2(score * (scale * LOG2E) - norm[None, :]), 1) / H
            to = teacher + row * K + number
            before = tl.load(to, mask=listed & (block > 0), other=0.0)  # of the blocks of heads before
            tl.store(to, tl.where(listed, before + weight, 0.0), mask=number < K)
        tl.debug_barrier()


@triton.jit
def _backward(
    query, key, weights, index, slope, grad_query, grad_key, grad_weights, tokens, keys, scale,
    H: tl.constexpr, D: tl.constexpr, K: tl.constexpr, BH: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    base = (row // tokens) * keys * D
    head, column = tl.arange(0, BH), tl.arange(0, D)
    q = tl.load(query + row * (H * D) + head[:, None] * D + column[None, :], mask=(head < H)[:, None], other=0.0)
    factor = tl.load(weights + row * H + head, mask=head < H, other=0.0).to(tl.float32) * scale
    sums = tl.zeros([D, BH], tl.float32)  # transposed: the wide side makes the rows of the product
    weight_sums = tl.zeros([BH], tl.float32)
    for start in tl.range(0, K, BK, num_stages=STAGES, disable_licm=True):
        number, chosen, listed = _listed(index, row, start, K, BK)
        at = base + chosen[:, None] * D + column[None, :]
        k = tl.load(key + at, mask=listed[:, None], other=0.0)  # [BK, D]
        pull = tl.load(slope + row * K + number, mask=listed, other=0.0)
        product = tl.dot(k, tl.trans(q), input_precision="ieee")  # [BK, BH]
        grad = tl.where(product > 0, pull[:, None], 0.0)
        weight_sums += tl.sum(grad * product, 0)
        sums = tl.dot(tl.trans(k), grad.to(k.dtype), sums, "ieee")
        to_key = tl.dot((grad * factor[None, :]).to(q.dtype), q, input_precision="ieee")  # [BK, D]
        tl.atomic_add(grad_key + at, to_key, mask=listed[:, None], sem="relaxed")
    sums = (sums * factor[None, :]).to(grad_query.dtype.element_ty)
    tl.store(grad_query + row * (H * D) + head[None, :] * D + column[:, None], sums, mask=(head < H)[None, :])
    tl.store(grad_weights + row * H + head, (weight_sums * scale).to(grad_weights.dtype.element_ty), mask=head < H)


def listed_teacher(query: Tensor, latent: Tensor, lse: Tensor, index: Tensor, scale: float) -> Tensor:
    """mean over heads of exp(scale * q . k - lse) at the listed keys: [B, R, K] fp32, 0 where none is listed."""
    batch, tokens, heads, width = query.shape
    teacher = query.new_empty(index.shape, dtype=torch.float32)
    keys = {**TEACHER, "BK": SMALL, "STAGES": 1} if launch.is_wide(query) else TEACHER
    sizes = {"H": heads, **halves(width), "K": index.shape[2], "BH": head_rows(query), **keys}
    grid = (batch * tokens,)
    _teacher[grid](query, latent, lse, index, teacher, tokens, latent.shape[1], scale, **sizes)
    return teacher


@launch.on_device
def listed_loss(
    indexer: tuple[Tensor, Tensor, Tensor], attention: tuple[Tensor, Tensor, Tensor], index: Tensor, scale: float,
    learns: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """(loss, gradients of the index query, key and weights); no gradients where the indexer does not learn.

    indexer: query [B, R, H, D], key [B, S, D], weights [B, R, H]; attention: query [B, R, Ha, Dqk], latent
    [B, S, Dqk], lse [B, R, Ha]; index [B, R, K] int32.
    """
    query, key, weights = (x.contiguous() for x in indexer)
    index = index.contiguous()
    batch, tokens, heads, dim = query.shape
    grid, common = (batch * tokens,), {"H": heads, "D": dim, "K": index.shape[2], "BH": _head_rows(heads)}
    sizes = tokens, key.shape[1], dim**-0.5
    score = query.new_empty(index.shape, dtype=torch.float32)
    _scores[grid](query, key, weights, index, score, *sizes, **common, **SCORES)
    of_query, latent, lse = (x.contiguous() for x in attention)
    teacher = listed_teacher(of_query, latent, lse, index, scale)
    loss = divergence(score, teacher, batch * tokens).mean()
    if not learns:
        return (loss,)
    grad_query, grad_weights = torch.empty_like(query), torch.empty_like(weights)
    grad_key = torch.zeros_like(key, dtype=torch.float32)
    _backward[grid](query, key, weights, index, score, grad_query, grad_key, grad_weights, *sizes, **common, **BACKWARD)
    return loss, grad_query, grad_key.to(key.dtype), grad_weights


def _head_rows(heads: int) -> int:
    """All index heads in one block: at least 16."""
    return int(max(16, triton.next_power_of_2(heads)))


_INPUTS = {"query": "*bf16", "key": "*bf16", "weights": "*fp32", "index": "*i32", "tokens": "i32", "keys": "i32"}
_INPUTS |= {"scale": "fp32"}
_ATTENTION = {"query": "*bf16", "latent": "*bf16", "lse": "*fp32", "index": "*i32", "teacher": "*fp32"}
_ATTENTION |= {"tokens": "i32", "keys": "i32", "scale": "fp32"}
_GRADS = {"slope": "*fp32", "grad_query": "*bf16", "grad_key": "*fp32", "grad_weights": "*fp32"}
_SIZES: dict[str, Any] = {"H": 32, "D": 128, "K": 2048, "BH": 32}
_WIDE: dict[str, Any] = {"H": 64, "DV": 512, "DR": 64, "K": 2048, "BH": 64}


def _case(name: str, kernel: Any, arguments: dict[str, str], sizes: dict[str, Any], **more: Any) -> Case:
    return Case(f"lightning_indexer.listed_{name}", kernel, arguments, sizes, matrix=True, **more)


CASES = [  # GLM-5's 32 index heads of 128, 64 attention heads over latents of 576
    _case("scores", _scores, {**_INPUTS, "scores": "*fp32"}, {**_SIZES, **SCORES}),
    _case("teacher", _teacher, _ATTENTION, {**_WIDE, **TEACHER}, targets=(SM90, SM100)),
    _case("backward", _backward, {**_INPUTS, **_GRADS}, {**_SIZES, **BACKWARD}),
]
