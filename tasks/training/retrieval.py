"""Documents that can only be predicted by looking something up: random strings that come again.

Copying forms abruptly and late on plain text, so a curriculum makes it cheap: strings repeated at
once (`AdjacentRepeats`) at short context, then strings that reappear far away in real text
(`ScatteredRepeats`). Random strings carry no loss where they first occur: nothing can predict them.
Source of the idea: induction heads, Olsson et al. 2022 (arXiv 2209.11895).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.training.data import Row, Source

CUE = 4  # tokens of a repeat that only announce it; what follows is scored


@dataclass(frozen=True)
class RetrievalRow:
    """A row and, for each token, how far back its first occurrence lies (0: not scored)."""

    row: Row
    distances: NDArray[np.int64]  # [T]


class AdjacentRepeats:
    """Random strings, each followed at once by its copies, until the row is full."""

    def __init__(self, alphabet: NDArray[np.int64], shortest: int = 8, longest: int = 48, copies: int = 7) -> None:
        self.alphabet, self.shortest, self.longest, self.copies = alphabet, shortest, longest, copies

    def row(self, rng: np.random.Generator, length: int) -> Row:
        """Loss on the copies only, from their second token (the first must announce them)."""
        tokens: list[NDArray[np.int64]] = []
        weights: list[NDArray[np.float32]] = []
        filled = 0
        while filled < length:
            string = rng.choice(self.alphabet, size=int(rng.integers(self.shortest, self.longest + 1)))
            weight = np.ones((1 + self.copies, len(string)), dtype=np.float32)
            weight[0] = 0.0
            tokens.append(np.tile(string, 1 + self.copies))
            weights.append(weight.reshape(-1))
            filled += tokens[-1].size
        ids = np.concatenate(tokens)[:length]
        return Row(ids, np.zeros(length, dtype=np.int64), np.concatenate(weights)[:length])


class ScatteredRepeats:
    """Real text with random strings in it; each string appears twice, at every distance the row allows."""

    def __init__(self, filler: Source, alphabet: NDArray[np.int64], size: int = 20, strings: int = 12) -> None:
        self.filler, self.alphabet, self.size, self.strings = filler, alphabet, size, strings

    def row(self, rng: np.random.Generator, length: int) -> Row:
        """The training row."""
        return self.retrieval_row(rng, length).row

    def retrieval_row(self, rng: np.random.Generator, length: int) -> RetrievalRow:
        """The row with the distance of every scored token.

        The row is cut into slots of `size` tokens; pairs of slots are drawn at random and hold the
        same string. Text around them is one document, so that attention may reach everything.
        """
        text = self.filler.row(rng, length)
        tokens, weights = text.tokens.copy(), text.weights.copy()
        distances = np.zeros(length, dtype=np.int64)
        slots = rng.permutation(length // self.size)
        for index in range(min(self.strings, len(slots) // 2)):
            first, second = sorted(int(slot) * self.size for slot in slots[2 * index : 2 * index + 2])
            string = rng.choice(self.alphabet, size=self.size)
            for start, weight in ((first, 0.0), (second, 1.0)):
                tokens[start : start + self.size] = string
                weights[start : start + self.size] = weight
            weights[second : second + 1] = 0.0
            distances[second + CUE : second + self.size] = second - first
        return RetrievalRow(Row(tokens, np.zeros(length, dtype=np.int64), weights), distances)
