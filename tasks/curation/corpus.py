"""From curated documents to the corpus on disk: split, tokenizer, shards, manifest."""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document

from tasks.curation import shards, tokenizer
from tasks.curation.documents import text_hash
from tasks.errors import InputError

HEAVIEST = 100  # weight of the demonstrations


class EmptySplitError(InputError):
    """The split left no document for training or for holding out."""


@dataclass(frozen=True)
class TokenizerPlan:
    """How the tokenizer is trained; the keys of `params.yaml` with the same names."""

    vocab_size: int
    tokenizer_bytes: int
    demonstration_weight: float

    def __post_init__(self) -> None:
        """Raises TokenizerError where the demonstrations would be repeated for hours."""
        if self.demonstration_weight > HEAVIEST:
            raise tokenizer.TokenizerError(
                f"The key 'curate.demonstration_weight' is {self.demonstration_weight:g}; more than {HEAVIEST} times "
                "the sample of the corpus is not trained on."
            )


def split_documents(documents: Sequence[Document], fraction: float) -> dict[str, list[str]]:
    """Texts by split. A document is held out by the hash of its text, whatever else the corpus holds."""
    splits: dict[str, list[str]] = {"train": [], "heldout": []}
    for document in documents:
        share = int(text_hash(document.text)[-16:], 16) / 2**64
        splits["heldout" if share < fraction else "train"].append(document.text)
    for name, texts in splits.items():
        if not texts:
            raise EmptySplitError(
                f"The split {name!r} is empty: {len(documents)} documents are too few "
                f"for curate.heldout_fraction={fraction}; give more text or another fraction."
            )
    return splits


def write_corpus(
    folder: Path, splits: dict[str, list[str]], demonstrations: Sequence[str], plan: TokenizerPlan, shard_tokens: int
) -> dict[str, Any]:
    """Writes tokenizer and shards; returns the manifest so far. Only training text shapes the tokenizer."""
    texts = tokenizer.training_texts(splits["train"], demonstrations, plan.tokenizer_bytes, plan.demonstration_weight)
    trained = tokenizer.train(texts, plan.vocab_size)
    tokenizer.save(trained, folder / "tokenizer")
    manifest: dict[str, Any] = {"format": shards.FORMAT, "vocab_size": plan.vocab_size}
    tokenizer_bytes = (folder / "tokenizer" / "tokenizer.json").read_bytes()
    manifest["tokenizer_sha256"] = hashlib.sha256(tokenizer_bytes).hexdigest()
    manifest["splits"] = {}
    for name, split in splits.items():
        entries = shards.write_shards(folder, name, tokenizer.encode(trained, split), plan.vocab_size, shard_tokens)
        manifest["splits"][name] = {
            "shards": entries,
            "documents": len(split),
            "bytes": sum(len(text.encode()) for text in split),
            "tokens": sum(entry["tokens"] for entry in entries),
        }
    return manifest


def baselines(texts: Sequence[str]) -> dict[str, float]:
    """What a model must beat on these texts, in bits per byte: the entropy of single bytes, and xz -9."""
    data = "\n".join(texts).encode()
    counts = np.bincount(np.frombuffer(data, dtype=np.uint8), minlength=256)
    shares = counts[counts > 0] / len(data)
    return {
        "unigram_bits_per_byte": float(-(shares * np.log2(shares)).sum()),
        "xz_bits_per_byte": 8 * len(lzma.compress(data, preset=9)) / len(data),
    }
