"""Cross-entropy of a linear layer in chunks of rows: products by cuBLAS, what is done to the logits by Triton.

The logits of a chunk are made in fp32 and never kept: the backward pass makes them again (Liger Kernel, Hsu et al.,
arXiv 2410.10989). `_losses` reads each row once (online softmax, Milakov and Gimelshein, arXiv 1805.02867), `_slopes`
turns it into the gradient of the logits. No small probability is dropped, unlike in Cut Your Losses (Wijmans et al.,
arXiv 2411.09009): gradients are exact up to their rounding to the weight's type.

With N rows, width D and vocabulary V every product takes 2 N D V operations: one forward and three backward, or three
in all where `weighted` makes the gradients on the way forward. On paper, for V = 154,880 and D = 6,144, a row costs 1.9
GFLOP a product and 0.62 MB of logits, written once and read once going forward: 2.7 us at 700 TFLOPS against 0.4 us at
3.3 TB/s. A kernel that fuses product and softmax wins back a seventh at most, and Triton's products are commonly
further than that behind cuBLAS; so there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels import launch
from kernels.cases import Case

# fp32 logits at once. The gradient of the weight, V x D in fp32, is read and written once a chunk: few rows a chunk
# would make that, not the product, take the time (on paper, below about 850 rows on an H100).
LOGIT_BYTES = 1 << 30
BLOCK = 4096
LOSSES = {"STAGES": 3, "num_warps": 8, "num_stages": 3}
SLOPES = {"num_warps": 8, "num_stages": 1}


@triton.jit
def _losses(
    logits, targets, losses, lse, ignore_index, z_loss, V: tl.constexpr, BV: tl.constexpr, STAGES: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    base = logits + row * V
    top = tl.full([], float("-inf"), tl.float32)
    total = tl.full([], 0.0, tl.float32)
    for start in tl.range(0, V, BV, num_stages=STAGES):
        column = start + tl.arange(0, BV)
        x = tl.load(base + column, mask=column < V, other=float("-inf"))
        higher = tl.maximum(top, tl.max(x, 0))
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(top - safe) + tl.sum(tl.exp(x - safe), 0)
        top = higher
    norm = top + tl.log(total)
    target = tl.load(targets + row)
    counts = target != ignore_index
    chosen = tl.load(base + target, mask=counts, other=0.0)
    tl.store(losses + row, tl.where(counts, norm - chosen + z_loss * norm * norm, 0.0))
    tl.store(lse + row, norm)


@triton.jit
def _slopes(
    logits, targets, lse, grads, slopes, ignore_index, z_loss, V: tl.constexpr, BV: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BV + tl.arange(0, BV)
    x = tl.load(logits + row * V + column, mask=column < V, other=0.0)
    target, norm, grad = tl.load(targets + row), tl.load(lse + row), tl.load(grads + row)
    slope = tl.exp(x - norm) * (1.0 + 2.0 * z_loss * norm)
    slope = tl.where(column == target, slope - 1.0, slope) * grad
    slope = tl.where(target == ignore_index, 0.0, slope)
    tl.store(slopes + row * V + column, slope.to(slopes.dtype.element_ty), mask=column < V)


@launch.on_device
def forward(hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int, z_loss: float) -> tuple[Tensor, Tensor]:
    """(losses [N] fp32, logsumexp of the logits [N] fp32) of hidden [N, D], weight [V, D], targets [N] int64."""
    targets = targets.contiguous()
    losses, lse = (hidden.new_empty(hidden.shape[0], dtype=torch.float32) for _ in range(2))
    for rows, logits in _chunks(hidden, weight):
        _launch_losses(logits, targets[rows], losses[rows], lse[rows], ignore_index, z_loss)
    return losses, lse


@launch.on_device
def backward(
    hidden: Tensor, weight: Tensor, targets: Tensor, lse: Tensor, grads: Tensor, ignore_index: int, z_loss: float
) -> tuple[Tensor, Tensor]:
    """Gradients of hidden and weight where grads [N] are those of the losses."""
    targets, grads, sums = targets.contiguous(), grads.float().contiguous(), _Gradients(hidden, weight)
    for rows, logits in _chunks(hidden, weight):
        sums.add(rows, _launch_slopes(logits, targets[rows], lse[rows], grads[rows], weight, ignore_index, z_loss))
    return sums.of_hidden, sums.of_weight.to(weight.dtype)


@launch.on_device
def weighted(
    hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, ignore_index: int, z_loss: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(losses [N] fp32, gradients of hidden and weight) of sum(weights * losses); the logits are made once."""
    targets, weights, sums = targets.contiguous(), weights.float().contiguous(), _Gradients(hidden, weight)
    losses, lse = (hidden.new_empty(hidden.shape[0], dtype=torch.float32) for _ in range(2))
    for rows, logits in _chunks(hidden, weight):
        _launch_losses(logits, targets[rows], losses[rows], lse[rows], ignore_index, z_loss)
        sums.add(rows, _launch_slopes(logits, targets[rows], lse[rows], weights[rows], weight, ignore_index, z_loss))
    return losses, sums.of_hidden, sums.of_weight.to(weight.dtype)


class _Gradients:
    """The gradients of hidden [N, D] and weight [V, D], the latter summed over the chunks in fp32."""

    def __init__(self, hidden: Tensor, weight: Tensor) -> None:
        self.hidden, self.weight = hidden, weight
        self.of_hidden = torch.empty_like(hidden, memory_format=torch.contiguous_format)
        self.of_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)

    def add(self, rows: slice, slopes: Tensor) -> None:
        """slopes [rows, V] of the logits, in the weight's type."""
        torch.mm(slopes, self.weight, out=self.of_hidden[rows])
        if slopes.dtype == torch.float32:
            self.of_weight.addmm_(slopes.t(), self.hidden[rows])
        else:
            torch.addmm(self.of_weight, slopes.t(), self.hidden[rows], out_dtype=torch.float32, out=self.of_weight)


def _chunks(hidden: Tensor, weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows and their logits in fp32; the memory of the logits is used again for the next rows."""
    count, vocabulary = hidden.shape[0], weight.shape[0]
    step = max(1, LOGIT_BYTES // (4 * vocabulary))
    step -= step % 128 if step > 128 else 0  # whole tiles of the products
    step = min(step, count)
    buffer = hidden.new_empty(step, vocabulary, dtype=torch.float32)
    for first in range(0, count, max(step, 1)):
        rows = slice(first, min(first + step, count))
        logits = buffer[: rows.stop - first]
        if hidden.dtype == torch.float32:
            torch.mm(hidden[rows], weight.t(), out=logits)
        else:
            torch.mm(hidden[rows], weight.t(), out_dtype=torch.float32, out=logits)
        yield rows, logits


def _launch_losses(
    logits: Tensor, targets: Tensor, losses: Tensor, lse: Tensor, ignore_index: int, z_loss: float
) -> None:
    rows, vocabulary = logits.shape
    sizes = {"V": vocabulary, "BV": min(BLOCK, triton.next_power_of_2(vocabulary)), **LOSSES}
    _losses[(rows,)](logits, targets, losses, lse, ignore_index, z_loss, **sizes)


def _launch_slopes(
    logits: Tensor, targets: Tensor, lse: Tensor, grads: Tensor, weight: Tensor, ignore_index: int, z_loss: float
) -> Tensor:
    """The gradient of the logits in the weight's type: in their place where that is theirs too."""
    rows, vocabulary = logits.shape
    slopes = logits if weight.dtype == torch.float32 else torch.empty_like(logits, dtype=weight.dtype)
    block = min(BLOCK, triton.next_power_of_2(vocabulary))
    grid = (rows, triton.cdiv(vocabulary, block))
    _slopes[grid](logits, targets, lse, grads, slopes, ignore_index, z_loss, V=vocabulary, BV=block, **SLOPES)
    return slopes


_COMMON = {"logits": "*fp32", "targets": "*i64", "lse": "*fp32", "ignore_index": "i32", "z_loss": "fp32"}
_SLOPES = {**_COMMON, "grads": "*fp32", "slopes": "*bf16"}
_SIZES: dict[str, Any] = {"V": 154_880, "BV": BLOCK}  # GLM-5's vocabulary

CASES = [
    Case("linear_cross_entropy.losses", _losses, {**_COMMON, "losses": "*fp32"}, {**_SIZES, **LOSSES}),
    Case("linear_cross_entropy.slopes", _slopes, _SLOPES, {**_SIZES, **SLOPES}),
]
