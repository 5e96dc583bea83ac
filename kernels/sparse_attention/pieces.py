"""Causal attention inside packed documents without a mask: the documents are cut apart and put side by side.

Rows of [B, T] tokens that hold several documents would need a [B, T, T] mask, with which attention computes every pair
of tokens and throws most away. Cut apart, documents of about one length are a batch of their own; what pads them to
that length comes after their last token, where no causal query sees it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SHORTEST = 16  # shorter documents are padded to so many tokens


@dataclass(frozen=True)
class Pieces:
    """Where the tokens of packed documents go.

    `shapes` are the sizes (n, L) of batches of n documents padded to L tokens. `order` [M = sum of n * L] is the token
    (of B * T, flat) at each place of these batches; a document's first token stands in its padding. `slot` [B * T] is
    the place of each token.
    """

    shapes: tuple[tuple[int, int], ...]
    order: Tensor
    slot: Tensor

    @classmethod
    def of(cls, positions: Tensor) -> Pieces:
        """positions [B, T]: the position of each token in its document, 0 where one begins."""
        flat, device = positions.flatten(), positions.device
        begins = (flat == 0).nonzero().squeeze(1)
        lengths = torch.diff(begins, append=torch.tensor([flat.numel()], device=device))
        sizes = torch.tensor(_sizes(positions.shape[1]), device=device)
        padded = sizes[torch.bucketize(lengths, sizes)]
        shapes, orders, slot, total = [], [], torch.empty_like(flat), 0
        for size in padded.unique().tolist():
            chosen = padded == size
            offset = torch.arange(size, device=device)
            inside = offset < lengths[chosen, None]
            order = begins[chosen, None] + torch.where(inside, offset, 0)  # [n, L]
            slot[order[inside]] = total + inside.flatten().nonzero().squeeze(1)
            shapes.append((order.shape[0], size))
            orders.append(order.flatten())
            total += order.numel()
        return cls(tuple(shapes), torch.cat(orders), slot)

    def cut(self, x: Tensor) -> list[Tensor]:
        """x [B, H, T, D] -> for each of `shapes` the documents [n, H, L, D]."""
        heads, width = x.shape[1], x.shape[3]
        rows = _Cut.apply(x.transpose(1, 2).reshape(-1, heads * width), self.order, self.slot)
        parts = rows.split([n * size for n, size in self.shapes])
        return [part.view(*shape, heads, width).transpose(1, 2) for part, shape in zip(parts, self.shapes, strict=True)]

    def join(self, parts: list[Tensor], batch: int) -> Tensor:
        """The inverse of `cut`: [B, H, T, D]."""
        heads, width = parts[0].shape[1], parts[0].shape[3]
        rows = torch.cat([part.transpose(1, 2).reshape(-1, heads * width) for part in parts])
        return _Join.apply(rows, self.slot).view(batch, -1, heads, width).transpose(1, 2)


class _Cut(torch.autograd.Function):
    """rows [N, W] -> rows[order] [M, W]. Nobody sees what stands in the padding, so no gradient comes from there."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, slot: Tensor) -> Tensor:
        """Copies whole rows."""
        ctx.save_for_backward(slot)
        return rows.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        """The gradient of each token's one place."""
        return grads[0].index_select(0, ctx.saved_tensors[0]), None, None


class _Join(torch.autograd.Function):
    """rows [M, W] -> rows[slot] [N, W]; the padding is dropped."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, slot: Tensor) -> Tensor:
        """Copies whole rows."""
        ctx.save_for_backward(slot)
        ctx.count = rows.shape[0]
        return rows.index_select(0, slot)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        """Zero in the padding."""
        grad = grads[0]
        return grad.new_zeros(ctx.count, grad.shape[1]).index_copy_(0, ctx.saved_tensors[0], grad), None


def _sizes(longest: int) -> list[int]:
    """16, 24, 32, 48, 64, 96... up to `longest`: padding adds at most half, a fifth on average."""
    sizes = [SHORTEST]
    while sizes[-1] < longest:
        sizes.append(sizes[-1] * 3 // 2 if sizes[-1] & (sizes[-1] - 1) == 0 else sizes[-1] * 4 // 3)
    return [*(size for size in sizes if size < longest), longest]
