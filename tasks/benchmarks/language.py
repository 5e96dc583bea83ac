"""Language modelling and retrieval on held-out text, with dense and with sparse attention."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model import Transformer
from tasks.curation.shards import read_split
from tasks.environments.chat import read_tokenizer
from tasks.statistics import Estimate
from tasks.training import heldout
from tasks.training.data import CorpusWindows, Mode, Row
from tasks.training.retrieval import RetrievalRow, ScatteredRepeats

MODES: tuple[Mode, ...] = ("dense", "sparse")


@dataclass(frozen=True)
class LanguageSet:
    """What every model is measured on: windows of held-out text and retrieval documents made from it."""

    windows: list[Row]
    token_bytes: NDArray[np.int64]  # [V]
    documents: list[RetrievalRow]


def language_set(corpus: Path, context: int, windows: int, documents: int, seed: int) -> LanguageSet:
    """Built from the corpus's held-out split. Raises ShardError where a shard is truncated or altered."""
    tokenizer = read_tokenizer(corpus / "tokenizer" / "tokenizer.json")
    text = read_split(corpus, "heldout")
    repeats = ScatteredRepeats(CorpusWindows(text), heldout.single_letters(tokenizer))
    return LanguageSet(
        heldout.heldout_windows(text, context, windows),
        heldout.token_bytes(tokenizer),
        heldout.retrieval_rows(repeats, documents, context, seed),
    )


def bits_per_byte(transformer: Transformer, material: LanguageSet) -> dict[str, Estimate]:
    """Held-out bits per byte by attention mode; intervals draw whole windows."""
    return {mode: heldout.bits_per_byte(transformer, material.windows, material.token_bytes, mode) for mode in MODES}


def retrieval(transformer: Transformer, material: LanguageSet, mode: Mode = "sparse") -> dict[str, Estimate]:
    """Share of copied tokens predicted right: `all`, then by distance in tokens. Chance is 1/26."""
    found: dict[str, Estimate] = heldout.retrieval_accuracy(transformer, material.documents, mode)
    return found
