"""The random numbers and the distribution that tokens are drawn from."""

import numpy as np
import pytest
import torch

from model.engine import Engine, Request
from model.engine.sampling import sample, uniforms
from tests.model.engine.conftest import build, run


def chi_square(counts: np.ndarray, probabilities: np.ndarray) -> float:
    expected = counts.sum() * probabilities
    return float(((counts - expected) ** 2 / expected).sum())


def test_uniforms_depend_on_seed_and_index_alone() -> None:
    seeds, indices = np.array([3, 3, 4, -1]), np.array([0, 1, 0, 5])
    together = uniforms(seeds, indices)
    alone = [uniforms(seeds[i : i + 1], indices[i : i + 1])[0] for i in range(4)]
    assert together.tolist() == alone
    assert len(set(alone)) == 4


def test_uniforms_are_uniform_over_seeds_and_over_indices() -> None:
    seeds, indices = (grid.ravel() for grid in np.meshgrid(np.arange(400), np.arange(100), indexing="ij"))
    numbers = uniforms(seeds, indices).reshape(400, 100)
    assert numbers.min() > 0
    assert numbers.max() < 1
    counts = np.bincount((numbers.ravel() * 64).astype(int), minlength=64)
    assert chi_square(counts, np.full(64, 1 / 64)) < 120  # 63 degrees of freedom: p is about 1e-5
    for shifted in (numbers[1:] * numbers[:-1], numbers[:, 1:] * numbers[:, :-1]):
        assert shifted.mean() == pytest.approx(0.25, abs=0.006)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_engine_samples_the_softmax(native: bool, temperature: float) -> None:
    transformer = build(5, vocab_size=8)
    engine = Engine(transformer, 500, 8, native=native)
    done = run(engine, [Request(str(i), str(i), [1, 2, 3], 1, temperature, seed=i) for i in range(8000)][:500])
    for start in range(500, 4000, 500):
        for session in list(engine.sessions.slot_of):
            engine.release(session)
        done |= run(engine, [Request(str(i), str(i), [1, 2, 3], 1, temperature, i) for i in range(start, start + 500)])
    counts = np.bincount([completion.token_ids[0] for completion in done.values()], minlength=8)
    with torch.no_grad():
        logits = transformer(torch.tensor([[1, 2, 3]]), mode="sparse").logits[0, -1]
    probabilities = (logits / temperature).softmax(-1).numpy()
    assert chi_square(counts, probabilities) < 30  # 7 degrees of freedom: p is about 1e-4
    assert (counts > 0).sum() > 3


def test_native_and_reference_draw_the_same(native: bool) -> None:
    transformer = build(6)
    step = Engine(transformer, 1, 8, native=native)._forward
    generator = torch.Generator().manual_seed(0)
    logits = torch.zeros(400, 64)
    logits[:, :61] = 3 * torch.randn(400, 61, generator=generator)
    numbers = torch.rand(400, generator=generator, dtype=torch.float64)
    temperatures = torch.tensor([0.0, 0.5, 1.0, 2.0]).repeat(100)
    tokens, log_probs = step.sample(logits[:, :61], temperatures, numbers)
    expected, expected_log_probs = sample(logits[:, :61], temperatures, numbers)
    assert tokens.tolist() == expected.tolist()
    assert torch.allclose(log_probs, expected_log_probs, atol=1e-5)


@pytest.mark.parametrize("number", [2.0**-53, 0.5 + 2.0**-20, 1 - 2.0**-53])
def test_extreme_numbers_draw_possible_tokens(native: bool, number: float) -> None:
    step = Engine(build(6), 1, 8, native=native)._forward
    logits = torch.full((1, 64), -1e4)[:, :61]
    logits[0, [20, 40]] = 0.0
    tokens, log_probs = step.sample(logits, torch.ones(1), torch.tensor([number], dtype=torch.float64))
    assert tokens.item() == (40 if number > 0.5 else 20)
    assert log_probs.item() == pytest.approx(-0.6931, abs=1e-3)
