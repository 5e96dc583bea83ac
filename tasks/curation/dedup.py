"""Near-duplicate removal: datatrove's four MinHash steps with shingles hashed in numpy."""

from __future__ import annotations

import contextlib
import io
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.writers.jsonl import JsonlWriter
from numpy.typing import NDArray

from tasks.curation.filters import WORDS

# 14 buckets of 8 hashes find a pair of Jaccard similarity 0.8 with probability 0.92 (FineWeb's setting).
CONFIG = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8, seed=1)
CHUNK = 2048  # shingles hashed at a time: 14 x 8 hashes of 8 bytes stay inside the cache


class FastSignature(MinhashDedupSignature):  # type: ignore[misc]  # datatrove is untyped
    """MinHash signatures whose shingles are a rolling polynomial over word hashes.

    Datatrove hashes each n-gram as a string, which takes most of the time of the whole stage. Words are hashed once
    each with CRC-32, which does not depend on the process (Python's own hash does).
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), CONFIG, language=WORDS)
        self.known: dict[str, int] = {}

    def get_shingles(self, text: str) -> NDArray[np.uint64]:
        """Distinct hashed 5-grams of the words, [N, 1] uint64; empty for fewer than five words."""
        words = np.fromiter(map(self._word, re.findall(r"\w+", text.lower())), dtype=np.uint64)
        if len(words) < CONFIG.n_grams:
            return np.empty((0, 1), dtype=np.uint64)
        count = len(words) - CONFIG.n_grams + 1
        rolled = np.zeros(count, dtype=np.uint64)
        for offset in range(CONFIG.n_grams):
            rolled = rolled * np.uint64(0x9E3779B97F4A7C15) + words[offset : offset + count]
        rolled ^= rolled >> np.uint64(31)  # the low bits of a product are weak
        return np.unique(rolled).reshape(-1, 1)

    def get_signature(self, shingles: NDArray[np.uint64]) -> list[list[int]]:
        """The minimum of every hash function over the shingles, by bucket."""
        parts = [
            np.concatenate(super(FastSignature, self).get_signature(shingles[start : start + CHUNK]))
            for start in range(0, len(shingles), CHUNK)
        ]
        smallest = np.min(np.stack(parts), axis=0)
        return [bucket.tolist() for bucket in np.split(smallest, CONFIG.num_buckets)]

    def _word(self, word: str) -> int:
        value = self.known.get(word)
        if value is None:
            value = self.known[word] = zlib.crc32(word.encode()) + 1
        return value


def find_duplicates(signatures: Path, work: Path) -> Path:
    """Signatures of all ranks -> folder that lists, for each rank, the documents to remove."""
    pairs, removals = work / "pairs", work / "removals"
    for rank in range(CONFIG.num_buckets):
        MinhashDedupBuckets(str(signatures), str(pairs), config=CONFIG, lines_to_buffer=-1).run(
            rank=rank, world_size=CONFIG.num_buckets
        )
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar cannot be turned off
        MinhashDedupCluster(str(pairs), str(removals), config=CONFIG).run()
    return removals


def drop_duplicates(documents: Any, removals: Path, rank: int, exclusion_writer: JsonlWriter) -> Any:
    """The documents of one rank without those to remove; one of each cluster stays."""
    return MinhashDedupFilter(str(removals), exclusion_writer=exclusion_writer).run(documents, rank)
