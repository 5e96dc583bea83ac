from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.training.data import CorpusWindows, Mixture, draw_batch, rank_rows, window
from tasks.training.errors import TrainingDataError
from tasks.training.retrieval import CUE, AdjacentRepeats, ScatteredRepeats
from tests.tasks.training import tiny

LETTERS = np.arange(30, 56)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 99), step=st.integers(0, 10**6))
def test_a_batch_depends_on_seed_and_step_alone(seed: int, step: int) -> None:
    source = Mixture({"corpus": tiny.corpus(), "repeats": AdjacentRepeats(LETTERS)}, {"corpus": 0.5, "repeats": 0.5})
    draw_batch(source, seed, step + 1, 4, 32)
    first, second = draw_batch(source, seed, step, 4, 32), draw_batch(source, seed, step, 4, 32)
    assert torch.equal(first.token_ids, second.token_ids)
    assert torch.equal(first.loss_weights, second.loss_weights)
    assert not torch.equal(first.token_ids, draw_batch(source, seed, step + 1, 4, 32).token_ids)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_share_the_global_batch(ranks: int) -> None:
    whole = draw_batch(tiny.corpus(), 7, 3, 8, 32)
    parts = [draw_batch(tiny.corpus(), 7, 3, 8, 32, rank, ranks).token_ids for rank in range(ranks)]
    assert torch.equal(torch.cat(parts), whole.token_ids)
    rows = [row for rank in range(ranks) for row in rank_rows(8, rank, ranks)]
    assert sorted(rows) == list(range(8))


def test_uneven_share_is_refused() -> None:
    with pytest.raises(TrainingDataError, match="7 rows cannot be shared evenly by 2 ranks"):
        rank_rows(7, 0, 2)


def test_separator_opens_the_next_document() -> None:
    row = window(np.array([5, 6, 0, 7, 8, 0, 9]), 0, 7)
    assert row.documents.tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert row.weights.tolist() == [0, 1, 0, 1, 1, 0, 1]


def test_short_corpus_is_refused() -> None:
    with pytest.raises(TrainingDataError, match="fewer than one window"):
        CorpusWindows(np.zeros(5, dtype=np.uint16)).row(np.random.default_rng(0), 6)


@pytest.mark.parametrize("shares", [{"nothing": 1.0}, {"corpus": 0.0}])
def test_unknown_or_empty_mixture_is_refused(shares: dict[str, float]) -> None:
    with pytest.raises(TrainingDataError, match="known are corpus"):
        Mixture({"corpus": tiny.corpus()}, shares)


@settings(max_examples=20, deadline=None)
@given(share=st.floats(0.1, 0.9), seed=st.integers(0, 9))
def test_mixture_keeps_its_shares(share: float, seed: int) -> None:
    letters = AdjacentRepeats(LETTERS)
    low = AdjacentRepeats(np.arange(5, 10))
    mixture = Mixture({"a": letters, "b": low}, {"a": share, "b": 1 - share})
    picks = [mixture.row(np.random.default_rng([seed, i]), 8).tokens[0] >= 30 for i in range(400)]
    assert abs(float(np.mean(picks)) - share) < 0.1


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), length=st.integers(64, 400))
def test_scattered_repeats_can_be_looked_up(seed: int, length: int) -> None:
    source = ScatteredRepeats(tiny.corpus(), LETTERS, size=12, strings=5)
    found = source.retrieval_row(np.random.default_rng(seed), length)
    scored = np.flatnonzero(found.distances)
    assert scored.size == min(5, length // 12 // 2) * (12 - CUE)
    back = scored - found.distances[scored]
    assert (found.row.tokens[scored] == found.row.tokens[back]).all()
    assert (found.row.weights[scored] == 1).all()
    assert (found.row.weights[back] == 0).all()
    assert len(set(found.row.documents.tolist())) == 1


def test_scattered_repeats_lie_at_many_distances() -> None:
    source = ScatteredRepeats(tiny.corpus(), LETTERS)
    rows = [source.retrieval_row(np.random.default_rng(i), 1024) for i in range(20)]
    distances = np.concatenate([row.distances[row.distances > 0] for row in rows])
    assert (distances < 128).mean() > 0.05
    assert (distances > 512).mean() > 0.1


def test_adjacent_repeats_weigh_the_copies_only() -> None:
    row = AdjacentRepeats(LETTERS, shortest=5, longest=5, copies=2).row(np.random.default_rng(0), 30)
    assert row.tokens[:5].tolist() == row.tokens[5:10].tolist() == row.tokens[10:15].tolist()
    assert row.weights.tolist() == ([0.0] * 5 + [1.0] * 10) * 2


def test_a_mixture_weighs_its_sources() -> None:
    sources = {"corpus": tiny.corpus(), "repeats": AdjacentRepeats(LETTERS)}
    light = Mixture(sources, {"corpus": 0.5, "repeats": 0.5}, {"corpus": 0.25})
    plain = Mixture(sources, {"corpus": 0.5, "repeats": 0.5})
    seen = set()
    for seed in range(20):
        one, other = (mixture.row(np.random.default_rng(seed), 128) for mixture in (light, plain))
        assert np.array_equal(one.tokens, other.tokens)
        ratio = float(one.weights.sum() / other.weights.sum())
        seen.add(ratio)
    assert seen == {0.25, 1.0}
