"""Packed documents: where each one starts, and which tokens may see each other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from kernels.sparse_attention import Pieces


@dataclass(frozen=True)
class Packing:
    """Positions [B, T] restart in each document; `starts` [B, T] is the index of the first token of the document.

    `whole` says that every row is one document, so that plain causal attention does the same; `longest` is the length
    of the longest document. Nothing here is larger than [B, T] until a mask is asked for.
    """

    positions: Tensor
    starts: Tensor
    whole: bool
    longest: int

    @classmethod
    def of(cls, token_ids: Tensor, document_ids: Tensor | None) -> Packing:
        """A document is a maximal run of equal ids in a row of document_ids [B, T]; None means one document a row."""
        batch, length = token_ids.shape
        index = torch.arange(length, device=token_ids.device)
        if document_ids is None:
            starts = torch.zeros_like(index).expand(batch, length)
        else:
            starts = _run_starts(document_ids, index)
        whole = document_ids is None or bool((starts == 0).all())
        positions = index - starts
        return cls(positions, starts, whole, length if whole else int(positions.max()) + 1)

    def first_rows(self, rows: int) -> Packing:
        """The packing of the first rows; `longest` stays a bound."""
        if rows >= self.positions.shape[0]:
            return self
        return replace(self, positions=self.positions[:rows], starts=self.starts[:rows])

    def visible(self, queries: Tensor) -> Tensor:
        """[B, R, T]: True where the queries at the indices [R] may see a key (causal, same document)."""
        key = torch.arange(self.starts.shape[1], device=self.starts.device)
        return (queries[:, None] >= key) & (key >= self.starts[:, queries, None])

    @cached_property
    def pieces(self) -> Pieces | None:
        """The documents apart, for attention; None where every row is one."""
        return None if self.whole else Pieces.of(self.positions)

    @property
    def has_context(self) -> Tensor:
        """[B, T]: True where a token has a predecessor in its own document, so that it can be predicted."""
        return self.positions > 0


def _run_starts(document_ids: Tensor, index: Tensor) -> Tensor:
    changes = torch.ones_like(document_ids, dtype=torch.bool)
    changes[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    return torch.where(changes, index, 0).cummax(-1).values
