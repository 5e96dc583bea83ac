"""Scores are the trainer's loss, and a copy counts where its distance says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from model import Transformer
from tasks.benchmarks.dsa.scoring import bins, mean_loss, score
from tasks.training.data import CorpusWindows, Row, stack
from tasks.training.retrieval import RetrievalRow, ScatteredRepeats
from tests.tasks.benchmarks.dsa import tiny
from tests.tasks.training.tiny import corpus

LENGTH = 96


def documents(count: int = 3) -> list[RetrievalRow]:
    source = ScatteredRepeats(corpus(documents=False), np.arange(10, 30), size=10, strings=3)
    return [source.retrieval_row(np.random.default_rng(seed), LENGTH) for seed in range(count)]


def text(source: CorpusWindows) -> list[Row]:
    return [source.row(np.random.default_rng(seed), LENGTH) for seed in range(3)]


@pytest.mark.parametrize("mode", ["dense", "sparse"])
def test_the_loss_is_the_trainers(mode: str) -> None:
    network = tiny.transformer()
    for rows in ([d.row for d in documents()], text(corpus())):
        batch = stack(rows)
        expected = network.loss(batch.token_ids, batch.loss_weights, batch.document_ids, mode).lm
        assert mean_loss(network, rows, mode) == pytest.approx(expected.item(), rel=1e-5)  # type: ignore[arg-type]
        network.requires_grad_(True)


class Copier(Transformer):
    """Guesses at t + 1 the token that followed the last occurrence of the four tokens up to t."""

    def forward(self, token_ids, document_ids=None, mode="dense"):  # type: ignore[no-untyped-def]
        out = super().forward(token_ids, document_ids, mode)
        logits = torch.zeros_like(out.logits)
        for row, ids in enumerate(token_ids.tolist()):
            seen: dict[tuple[int, ...], int] = {}
            for place in range(3, len(ids) - 1):
                cue = tuple(ids[place - 3 : place + 1])
                logits[row, place, seen.get(cue, 0)] = 9.0
                seen[cue] = ids[place + 1]
        return type(out)(logits, out.hidden, out.indexer_loss, out.expert_load)


def test_a_perfect_copier_finds_everything_in_every_bin() -> None:
    found = score(Copier(tiny.CONFIG), documents(), text(corpus()), "dense")
    scored = {name: sum(values["scored"]) for name, values in found["retrieval"].items()}
    hits = {name: sum(values["hits"]) for name, values in found["retrieval"].items()}
    assert sum(scored.values()) == 3 * 3 * 6  # documents, strings, tokens behind the cue
    assert hits == scored
    assert [len(values["hits"]) for values in found["retrieval"].values()] == [3] * 5


def test_bins_cover_every_distance_once() -> None:
    edges = bins(1024)
    assert edges[0][0] == 0
    assert edges[-1][1] == 1024
    assert all(low == high for (_, high), (low, _) in itertools.pairwise(edges))
    assert edges[1] == (64, 128)  # a window of a 16th or an 8th of the length ends at an edge
