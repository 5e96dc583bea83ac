"""Deterministic selection."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.topk import cpu, reference, select_keys, topk_indices, topk_mask


def expected_set(row: torch.Tensor, k: int) -> list[int]:
    """Sorted by falling score, then rising index; -inf cannot be chosen."""
    order = sorted(range(len(row)), key=lambda i: (-row[i].item(), i))
    return sorted(i for i in order[:k] if row[i] > -torch.inf)


@settings(max_examples=80, deadline=None)
@given(size=st.integers(1, 40), k=st.integers(1, 45), levels=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_the_best_are_taken_and_ties_go_to_the_lower_index(size: int, k: int, levels: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-levels, levels, (3, size), generator=generator).float() / 2
    scores[torch.rand(3, size, generator=generator) < 0.2] = -torch.inf
    mask, indices = topk_mask(scores, k), topk_indices(scores, k)
    for row in range(3):
        expected = expected_set(scores[row], k)
        assert mask[row].nonzero().flatten().tolist() == expected
        assert indices[row].tolist() == expected + [-1] * (min(k, size) - len(expected))


@settings(max_examples=80, deadline=None)
@given(size=st.integers(1, 300), k=st.integers(1, 60), tied=st.booleans(), seed=st.integers(0, 10**6))
def test_the_c_kernel_selects_what_the_reference_selects(size: int, k: int, tied: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, 5, size, generator=generator)
    scores = scores.relu() * torch.tensor([-1.0, 1.0, 0.5, -0.0, 0.0])[:, None] if tied else scores
    first = torch.randint(0, size, (2, 5), generator=generator)
    last = first + 1 + (torch.rand(2, 5, generator=generator) * (size - first)).long().clamp(max=size)
    last = last.clamp(max=size)
    if not cpu.available(scores):
        pytest.skip("There is no C compiler here.")
    expected = reference.select_keys(scores, first, last, k)
    assert torch.equal(cpu.select_keys(scores, first, last, k), expected)


def test_a_hundred_repeats_on_plateaus_select_the_same_keys() -> None:
    scores = torch.randn(4, 30, 200).relu()
    last = torch.arange(171, 201).expand(4, 30)
    found = {select_keys(scores, torch.zeros_like(last), last, 130).numpy().tobytes() for _ in range(100)}
    assert len(found) == 1


def test_no_key_outside_the_range_is_ever_selected() -> None:
    scores = torch.arange(50.0).expand(1, 4, 50)
    first, last = torch.tensor([[0, 3, 10, 20]]), torch.tensor([[1, 9, 40, 50]])
    found = select_keys(scores, first, last, 8)
    assert found[0].tolist() == [
        [0] + [-1] * 7, [3, 4, 5, 6, 7, 8, -1, -1], list(range(32, 40)), list(range(42, 50)),
    ]  # fmt: skip


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="k of at least 1"):
        topk_mask(torch.zeros(3), 0)
    with pytest.raises(ValueError, match="ranges"):
        select_keys(torch.zeros(2, 3, 4), torch.zeros(2, 2).long(), torch.ones(2, 3).long(), 2)
