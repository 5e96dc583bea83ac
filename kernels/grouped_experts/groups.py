"""Where the tokens of each expert stand when they are sorted by expert."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Groups:
    """Rows sorted by expert, every group padded to a multiple of some number of rows.

    `source` [M] is the token at each row (the first one in the padding), `bounds` the ends of the groups and `slot`
    [N * k] the row of each choice.
    """

    source: Tensor
    slot: Tensor
    bounds: list[int]

    @classmethod
    def of(cls, experts: Tensor, count: int, multiple: int) -> Groups:
        """experts [N, k] in [0, count)."""
        flat = experts.flatten()
        order = flat.argsort(stable=True)
        sizes = torch.bincount(flat, minlength=count)
        ends = ((sizes + multiple - 1) // multiple * multiple).cumsum(0)
        shift = ends - sizes.cumsum(0)  # padding up to the end of each group
        before = torch.cat([shift.new_zeros(1), shift[:-1]])
        row = torch.arange(order.numel(), device=order.device) + before[flat[order]]
        bounds = ends.tolist()
        source = order.new_zeros(bounds[-1]).index_copy_(0, row, order // experts.shape[1])
        return cls(source, torch.empty_like(order).index_copy_(0, order, row), bounds)

    def spread(self, weights: Tensor) -> Tensor:
        """weights [N, k] of the choices -> [M], zero in the padding."""
        return weights.new_zeros(self.source.numel()).index_copy_(0, self.slot, weights.flatten())
