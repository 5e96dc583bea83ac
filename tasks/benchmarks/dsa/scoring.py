"""One network on the held-out sets: losses and retrieval, document by document, so that arms can be paired."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model import Transformer
from tasks.training.data import Mode, Row, stack
from tasks.training.retrieval import RetrievalRow

TOKENS = 8192  # in one forward pass


def bins(length: int) -> tuple[tuple[int, int], ...]:
    """Distances (low, high], in tokens back to the first occurrence: up to a 16th of the length, an 8th and so on."""
    return tuple(itertools.pairwise((0, *(length // share for share in (16, 8, 4, 2, 1)))))


def score(
    transformer: Transformer, documents: Sequence[RetrievalRow], text: Sequence[Row], mode: Mode
) -> dict[str, Any]:
    """Nats and predicted tokens of every document and window; hits and scored tokens of every bin and document."""
    length = len(text[0].tokens)
    retrieval: dict[str, dict[str, list[int]]] = {
        f"{low + 1}-{high}": {"hits": [], "scored": []} for low, high in bins(length)
    }
    losses: dict[str, list[float]] = {"nats": [], "tokens": []}
    for document, log_probs in zip(documents, predictions(transformer, [d.row for d in documents], mode), strict=True):
        _add_losses(losses, document.row, log_probs)
        _add_hits(retrieval, document, log_probs)
    plain: dict[str, list[float]] = {"nats": [], "tokens": []}
    for row, log_probs in zip(text, predictions(transformer, text, mode), strict=True):
        _add_losses(plain, row, log_probs)
    return {"documents": losses, "text": plain, "retrieval": retrieval}


@torch.no_grad()
def predictions(transformer: Transformer, rows: Sequence[Row], mode: Mode) -> Iterator[NDArray[np.float32]]:
    """log p of every token at every place of each row, [T, V]. The network is frozen: nothing is to be taught."""
    transformer.eval().requires_grad_(False)
    size = max(1, TOKENS // len(rows[0].tokens))
    for start in range(0, len(rows), size):
        batch = stack(list(rows[start : start + size]))
        logits = transformer(batch.token_ids, batch.document_ids, mode).logits
        yield from logits.log_softmax(-1).numpy()


def mean_loss(transformer: Transformer, rows: Sequence[Row], mode: Mode) -> float:
    """Nats a predicted token over all rows."""
    losses: dict[str, list[float]] = {"nats": [], "tokens": []}
    for row, log_probs in zip(rows, predictions(transformer, rows, mode), strict=True):
        _add_losses(losses, row, log_probs)
    return sum(losses["nats"]) / sum(losses["tokens"])


def _add_losses(losses: dict[str, list[float]], row: Row, log_probs: NDArray[np.float32]) -> None:
    """A token counts as training counts it: not where its document begins, nor where a random string first occurs."""
    weights = row.weights * (np.diff(row.documents, prepend=row.documents[0] - 1) == 0)
    places = np.flatnonzero(weights)
    losses["nats"].append(-float(log_probs[places - 1, row.tokens[places]].sum()))
    losses["tokens"].append(len(places))


def _add_hits(
    retrieval: dict[str, dict[str, list[int]]], document: RetrievalRow, log_probs: NDArray[np.float32]
) -> None:
    distances = document.distances
    for (low, high), found in zip(bins(len(distances)), retrieval.values(), strict=True):
        places = np.flatnonzero((distances > low) & (distances <= high))
        found["hits"].append(int((log_probs[places - 1].argmax(-1) == document.row.tokens[places]).sum()))
        found["scored"].append(len(places))
