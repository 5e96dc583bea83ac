"""What a model is measured by after training: bits per byte, retrieval at distance, demonstration loss."""

from __future__ import annotations

import itertools
import lzma
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from model import Transformer
from tasks.statistics import Estimate, estimate
from tasks.training.data import Batch, Mode, Row, stack, window
from tasks.training.errors import TrainingDataError
from tasks.training.retrieval import RetrievalRow, ScatteredRepeats
from tasks.training.trajectories import Transcript

SPECIAL_TOKENS = 5
CHANCE = 1 / 26  # of guessing a random letter
DISTANCE_EDGES = (0, 128, 256, 512, 1 << 30)  # tokens back to the first occurrence


def token_bytes(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """How many bytes of text each token stands for, [V]; 0 for special tokens.

    In a byte-level vocabulary every character of a token's name is one byte.
    """
    names = [tokenizer.id_to_token(index) or "" for index in range(tokenizer.get_vocab_size())]
    return np.array([0 if index < SPECIAL_TOKENS else len(name) for index, name in enumerate(names)])


def single_letters(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """The ids of the 26 lower-case letters, the alphabet of retrieval strings."""
    return np.array([tokenizer.token_to_id(letter) for letter in "abcdefghijklmnopqrstuvwxyz"], dtype=np.int64)


def heldout_windows(tokens: NDArray[np.unsignedinteger], context: int, limit: int) -> list[Row]:
    """At most `limit` evenly spaced, non-overlapping windows of a split."""
    count = len(tokens) // context
    if count == 0:
        raise TrainingDataError(f"The held-out split has {len(tokens)} tokens, fewer than one window of {context}.")
    picks = np.unique(np.linspace(0, count - 1, min(limit, count)).astype(int))
    return [window(tokens, int(pick) * context, context) for pick in picks]


@torch.no_grad()
def bits_per_byte(transformer: Transformer, rows: Sequence[Row], lengths: NDArray[np.int64], mode: Mode) -> Estimate:
    """Nats of all tokens that can be predicted / ln 2 / their bytes; the interval draws whole windows.

    The first token of a window or document has no context and counts on neither side.
    """
    nats: list[float] = []
    sizes: list[int] = []
    for chunk, batch in _batches(transformer, rows):
        log_probs = transformer.log_probs(batch.token_ids, batch.document_ids, mode).double().cpu().numpy()
        for row, values in zip(chunk, log_probs, strict=True):
            predicted = np.diff(row.documents, prepend=row.documents[0] - 1) == 0
            nats.append(-float(values[predicted].sum()))
            sizes.append(int(lengths[row.tokens[predicted]].sum()))
    weights = np.array(sizes, dtype=np.float64)
    ratios = np.array(nats) / math.log(2) / np.maximum(weights, 1.0)
    return estimate(ratios, weights=weights)


def byte_entropy(text: bytes) -> float:
    """Entropy of single bytes, in bits: what a model without any context could reach at best."""
    counts = np.bincount(np.frombuffer(text, dtype=np.uint8), minlength=256)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def xz_bits_per_byte(text: bytes) -> float:
    """Bits per byte of `xz -9` over the text."""
    return 8.0 * len(lzma.compress(text, preset=9)) / len(text)


def decode_bytes(tokenizer: Tokenizer, tokens: NDArray[np.unsignedinteger]) -> bytes:
    """The text of a split, separators left out."""
    text: str = tokenizer.decode([int(token) for token in tokens], skip_special_tokens=True)
    return text.encode("utf-8")


def retrieval_rows(source: ScatteredRepeats, count: int, length: int, seed: int) -> list[RetrievalRow]:
    """Held-out retrieval documents: `source` fills with held-out text, seeds apart from training's."""
    return [source.retrieval_row(np.random.default_rng([seed, 2**31, index]), length) for index in range(count)]


@torch.no_grad()
def retrieval_accuracy(transformer: Transformer, rows: Sequence[RetrievalRow], mode: Mode) -> dict[str, Estimate]:
    """Share of the scored tokens of a repeat that are the argmax: `all`, and by distance bin.

    Teacher forced; chance is `CHANCE`. The interval draws whole documents.
    """
    hits, distances, documents = [], [], []
    for start, batch in _retrieval_batches(transformer, rows):
        guesses = transformer(batch.token_ids, batch.document_ids, mode).logits[:, :-1].argmax(-1).cpu().numpy()
        for offset, guess in enumerate(guesses):
            row = rows[start + offset]
            scored = np.flatnonzero(row.distances)
            hits.append(guess[scored - 1] == row.row.tokens[scored])
            distances.append(row.distances[scored])
            documents.append(np.full(len(scored), start + offset))
    return _by_distance(np.concatenate(hits), np.concatenate(distances), np.concatenate(documents))


def _by_distance(
    hits: NDArray[np.bool_], distances: NDArray[np.int64], documents: NDArray[np.int64]
) -> dict[str, Estimate]:
    found = {"all": estimate(hits.astype(float), clusters=documents.tolist())}
    for low, high in itertools.pairwise(DISTANCE_EDGES):
        inside = (distances > low) & (distances <= high)
        if inside.any():
            name = f"{low + 1}-{high}" if high < 1 << 30 else f"over_{low}"
            found[name] = estimate(hits[inside].astype(float), clusters=documents[inside].tolist())
    return found


@torch.no_grad()
def transcript_loss(
    transformer: Transformer, transcripts: Sequence[Transcript], mode: Mode, other_weight: float
) -> Estimate:
    """Nats per token that the expert wrote (those weighing more than `other_weight`), one transcript a row."""
    values: list[float] = []
    weights: list[float] = []
    for ids, weight in transcripts:
        token_ids = torch.from_numpy(ids)[None].to(next(transformer.parameters()).device)
        log_probs = transformer.log_probs(token_ids, None, mode)[0].double().cpu().numpy()
        own = weight > other_weight
        values.append(-float(log_probs[own].mean()))
        weights.append(float(own.sum()))
    return estimate(values, weights=weights)


def _batches(transformer: Transformer, rows: Sequence[Row]) -> Iterator[tuple[Sequence[Row], Batch]]:
    """Rows in batches of about 8192 tokens on the model's device."""
    device = next(transformer.parameters()).device
    size = max(1, 8192 // len(rows[0].tokens))
    for start in range(0, len(rows), size):
        chunk = rows[start : start + size]
        yield chunk, stack(list(chunk)).to(device)


def _retrieval_batches(transformer: Transformer, rows: Sequence[RetrievalRow]) -> Iterator[tuple[int, Batch]]:
    start = 0
    for chunk, batch in _batches(transformer, [row.row for row in rows]):
        yield start, batch
        start += len(chunk)
