"""Batches as a pure function of (seed, step, row): no iterator, hence nothing to save or lose on a crash.

Row `r` of step `s` is drawn by a generator seeded with (seed, s, r). A rank takes a contiguous
share of the rows, so the global batch does not depend on how many ranks there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.training.errors import TrainingDataError

SEPARATOR = 0  # <|endoftext|>

Mode = Literal["dense", "warmup", "sparse"]  # of DSA, see model/attention.py


@dataclass(frozen=True)
class Row:
    """One window of `T` tokens; `weights[t]` is the loss weight of predicting token t."""

    tokens: NDArray[np.int64]  # [T]
    documents: NDArray[np.int64]  # [T]
    weights: NDArray[np.float32]  # [T]


@dataclass(frozen=True)
class Batch:
    """Rows of one rank, stacked."""

    token_ids: torch.Tensor  # [B, T] int64
    document_ids: torch.Tensor  # [B, T] int64
    loss_weights: torch.Tensor  # [B, T] float32

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(self.token_ids.to(device), self.document_ids.to(device), self.loss_weights.to(device))


class Source(Protocol):
    """Something that draws a row with a generator and nothing else."""

    def row(self, rng: np.random.Generator, length: int) -> Row:
        """A row of `length` tokens."""
        ...


class CorpusWindows:
    """Windows of a packed token stream, at random offsets.

    A separator opens the document after it (it plays the part of a start token), so the first
    token of a document is predicted from a position of its own document.
    """

    def __init__(self, tokens: NDArray[np.unsignedinteger]) -> None:
        self.tokens = tokens

    def row(self, rng: np.random.Generator, length: int) -> Row:
        """A window at a random offset. Raises TrainingDataError where the corpus is shorter than a window."""
        if len(self.tokens) < length:
            raise TrainingDataError(f"The corpus has {len(self.tokens)} tokens, fewer than one window of {length}.")
        start = int(rng.integers(0, len(self.tokens) - length + 1))
        return window(self.tokens, start, length)


def window(tokens: NDArray[np.unsignedinteger], start: int, length: int) -> Row:
    """Tokens [start, start + length) with document numbers; the first token of a document carries no loss."""
    ids = np.asarray(tokens[start : start + length], dtype=np.int64)
    weights = (ids != SEPARATOR).astype(np.float32)
    weights[0] = 0.0
    return Row(ids, np.cumsum(ids == SEPARATOR), weights)


class Mixture:
    """Chooses a source for each row by its share; `weights` multiply a source's loss weights (1 where not named)."""

    def __init__(
        self, sources: Mapping[str, Source], shares: Mapping[str, float], weights: Mapping[str, float] | None = None
    ) -> None:
        names = sorted(name for name, share in shares.items() if share > 0)
        unknown = [name for name in names if name not in sources]
        if unknown or not names:
            known = ", ".join(sorted(sources))
            raise TrainingDataError(f"The mixture names {unknown or 'no source'}; known are {known}.")
        self.sources = [sources[name] for name in names]
        self.weights = [np.float32((weights or {}).get(name, 1.0)) for name in names]
        total = sum(shares[name] for name in names)
        self.edges = np.cumsum([shares[name] / total for name in names])

    def row(self, rng: np.random.Generator, length: int) -> Row:
        """A row of the source that the generator picks."""
        index = min(int(np.searchsorted(self.edges, rng.random(), side="right")), len(self.sources) - 1)
        row = self.sources[index].row(rng, length)
        return replace(row, weights=row.weights * self.weights[index])


def rank_rows(batch: int, rank: int, ranks: int) -> range:
    """The rows of the global batch that belong to a rank. Raises TrainingDataError if they cannot be shared evenly."""
    if batch % ranks:
        raise TrainingDataError(f"A batch of {batch} rows cannot be shared evenly by {ranks} ranks.")
    share = batch // ranks
    return range(rank * share, (rank + 1) * share)


def draw_batch(source: Source, seed: int, step: int, batch: int, length: int, rank: int = 0, ranks: int = 1) -> Batch:
    """The rows of step `step` that belong to `rank`."""
    rows = [source.row(np.random.default_rng([seed, step, row]), length) for row in rank_rows(batch, rank, ranks)]
    return stack(rows)


def stack(rows: list[Row]) -> Batch:
    """Rows of equal length as tensors [B, T]."""
    return Batch(
        torch.from_numpy(np.stack([row.tokens for row in rows])),
        torch.from_numpy(np.stack([row.documents for row in rows])),
        torch.from_numpy(np.stack([row.weights for row in rows])),
    )
