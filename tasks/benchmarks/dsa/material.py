"""What the evidence trains on and is scored on: the curated corpus, with random strings that come again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.benchmarks.dsa.plan import rows
from tasks.curation.shards import read_split
from tasks.environments.chat import OBSERVATION, read_tokenizer
from tasks.tracking.provenance import fingerprint
from tasks.training import heldout
from tasks.training.data import CorpusWindows, Row, Source
from tasks.training.errors import TrainingDataError
from tasks.training.retrieval import AdjacentRepeats, RetrievalRow, ScatteredRepeats

HELDOUT_SEED = 1  # the same documents under every training seed
STRING = 20  # tokens of a string that comes again
DENSITY = 12 / 1024  # strings a token: with both occurrences they fill almost half of a document


@dataclass(frozen=True)
class Material:
    """The two splits, the letters that strings are made of, the size of the vocabulary and the corpus's hash."""

    train: CorpusWindows
    heldout: CorpusWindows
    letters: NDArray[np.int64]
    vocabulary: int
    fingerprint: str

    @classmethod
    def read(cls, corpus: Path) -> Material:
        """Raises TrainingDataError with one sentence where there is no corpus, ShardError where it is damaged."""
        if not (corpus / "manifest.json").is_file():
            raise TrainingDataError(f"There is no curated corpus in {corpus}; `dvc repro curate` makes it.")
        tokenizer = read_tokenizer(corpus / "tokenizer" / "tokenizer.json")
        train, kept = (CorpusWindows(read_split(corpus, split)) for split in ("train", "heldout"))
        letters = heldout.single_letters(tokenizer)
        return cls(train, kept, letters, tokenizer.get_vocab_size(), fingerprint(corpus))

    def sources(self, length: int) -> Mapping[str, Source]:
        """Of training rows: text, repeats at once (letters, or any tokens), and strings that come again far away."""
        return {
            "corpus": self.train,
            "letters": AdjacentRepeats(self.letters),
            "tokens": AdjacentRepeats(np.arange(OBSERVATION + 1, self.vocabulary)),
            "retrieval": self._scattered(self.train, length),
        }

    def documents(self, tokens: int, length: int) -> list[RetrievalRow]:
        """Held-out documents that can only be predicted by looking something up."""
        return heldout.retrieval_rows(self._scattered(self.heldout, length), rows(tokens, length), length, HELDOUT_SEED)

    def text(self, tokens: int, length: int) -> list[Row]:
        """Windows of held-out text as it is."""
        return heldout.heldout_windows(self.heldout.tokens, length, rows(tokens, length))

    def _scattered(self, filler: CorpusWindows, length: int) -> ScatteredRepeats:
        return ScatteredRepeats(filler, self.letters, STRING, max(2, round(DENSITY * length)))


def description() -> Mapping[str, Any]:
    """What the held-out documents are made by, for the parts' hashes."""
    return {"seed": HELDOUT_SEED, "string": STRING, "density": DENSITY}
