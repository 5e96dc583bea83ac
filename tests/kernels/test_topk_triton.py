"""Selection of keys by the kernels (Triton's interpreter) against plain PyTorch, equal key by key."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.lightning_indexer.reference import index_scores
from kernels.topk import operator, reference, select_keys_fused, triton
from tests.kernels.mutation import assert_caught

SMALL = {"GIVEN": {"BT": 4, "BS": 16, "BR": 4}, "FUSED": {"BT": 16, "BS": 16, "BR": 16, "STAGES": 1}}
pytestmark = pytest.mark.usefixtures("poisoned", "small_blocks")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, sizes in SMALL.items():
        monkeypatch.setattr(triton, name, sizes)


def shrink(kernels) -> None:
    """Blocks so small that a scratch overflows several times (a mutant has a module of its own)."""
    for name, sizes in SMALL.items():
        setattr(kernels, name, sizes)


def ranges(rows: tuple[int, ...], keys: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Some ranges empty, some to the last key."""
    first = torch.randint(0, keys, rows, generator=draw)
    return first // 2, (first // 2 + torch.randint(0, 2 * keys, rows, generator=draw)).clamp(max=keys)


def integers(levels: int, *shape: int, draw: torch.Generator) -> Tensor:
    """Small integers: products and sums of them are exact in fp32, whatever the order, and often tie."""
    return torch.randint(-levels, levels + 1, shape, generator=draw).float()


def check_given(kernels, rows: int = 5, keys: int = 60, k: int = 8, levels: int = 3, seed: int = 0) -> None:
    shrink(kernels)
    draw = torch.Generator().manual_seed(seed)
    scores = integers(levels, 2, rows, keys, draw=draw).relu() * integers(1, 2, rows, keys, draw=draw)  # also -0.0
    scores[torch.rand(scores.shape, generator=draw) < 0.4] = -torch.inf
    scores[-1, -1] = torch.arange(keys)  # every later key displaces an earlier one
    scores[0, 0] = -1.0 - torch.randperm(keys, generator=draw)
    scores[0, -1, 3:] = -torch.inf  # fewer to choose from than k
    first, last = ranges((2, rows), keys, draw)
    for row in (0, 0), (0, -1), (-1, -1):
        first[row], last[row] = 0, keys
    wanted = reference.select_keys(scores, first, last, k)
    assert torch.equal(kernels.select_keys(scores, first, last, k), wanted)


def check_fused(
    kernels, batch: int = 2, tokens: int = 17, keys: int = 60, k: int = 8, levels: int = 1, seed: int = 0
) -> None:
    shrink(kernels)
    draw = torch.Generator().manual_seed(seed)
    query, key = integers(levels, batch, tokens, 2, 16, draw=draw), integers(levels, batch, keys, 16, draw=draw)
    weights = integers(levels, batch, tokens, 2, draw=draw)
    first, last = ranges((batch, tokens), keys, draw)
    wanted = reference.select_keys(index_scores(query, key, weights), first, last, k)
    assert torch.equal(kernels.select_keys_fused(query, key, weights, first, last, k), wanted)


@settings(max_examples=8, deadline=None)
@given(
    rows=st.integers(1, 5),
    keys=st.integers(1, 70),
    k=st.sampled_from([1, 7, 8, 20]),
    levels=st.sampled_from([0, 2, 1000]),
    seed=st.integers(0, 999),
)
def test_the_given_scores_decide(rows: int, keys: int, k: int, levels: int, seed: int) -> None:
    check_given(triton, rows, keys, k, levels, seed)


@settings(max_examples=6, deadline=None)
@given(
    batch=st.integers(1, 2),
    tokens=st.sampled_from([1, 5, 17]),
    keys=st.integers(1, 70),
    k=st.sampled_from([1, 8, 20]),
    levels=st.sampled_from([0, 1, 9]),
    seed=st.integers(0, 999),
)
def test_the_fused_scores_decide(batch: int, tokens: int, keys: int, k: int, levels: int, seed: int) -> None:
    check_fused(triton, batch, tokens, keys, k, levels, seed)


def test_programs_that_own_several_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "SCRATCH_BYTES", 0)
    check_given(triton)
    check_fused(triton)


def test_packed_documents_keep_to_themselves() -> None:
    shrink(triton)
    tokens, cut, draw = 50, 21, torch.Generator().manual_seed(0)
    last = torch.arange(1, tokens + 1).unsqueeze(0)
    first = torch.where(last > cut, cut, 0)
    query, key = integers(2, 1, tokens, 2, 16, draw=draw), integers(2, 1, tokens, 16, draw=draw)
    weights = integers(2, 1, tokens, 2, draw=draw)
    found = triton.select_keys_fused(query, key, weights, first, last, 8)
    assert torch.equal(found, reference.select_keys(index_scores(query, key, weights), first, last, 8))
    assert found[0, 21].tolist() == [21] + [-1] * 7


def test_the_scratch_holds_what_a_block_can_add() -> None:
    for k, block in ((1, 512), (8, 16), (2048, 128), (2047, 4096)):
        slots = triton.capacity(k, block)
        assert slots >= k + block
        assert slots & (slots - 1) == 0


MUTANTS = [  # check, kernel, what stands there, what breaks it
    (check_given, "_append", "score > bound", "score >= bound"),
    (check_given, "_append", "tl.where(score == 0, 0.0, score)", "score"),
    (check_fused, "_append", "seen & (score", "(number[None, :] >= 0) & (score"),
    (check_given, "_ordered", "0x7FFFFFFF", "0x00000000"),
    (check_given, "_kth_largest", "reach >= K, candidate", "reach < K, candidate"),
    (check_given, "_shrink", "<= room[:, None]", "< room[:, None]"),
    (check_given, "_shrink", "tl.store(places + to, place, mask=keep)", "pass"),
    (check_given, "_given", "tl.max(count) > K", "tl.max(count) > CAP"),
    (check_given, "_write", "other=-1", "other=0"),
    (check_fused, "_fused", "tl.max(high), BS", "tl.max(high) - BS, BS"),
    (check_fused, "_fused", "batch * keys * D", "0"),
    (check_fused, "_write", "(row < rows)[:, None]", "(row < rows - 1)[:, None]"),
]


@pytest.mark.parametrize(("check", "kernel", "old", "new"), MUTANTS)
def test_a_broken_kernel_is_noticed(check, kernel: str, old: str, new: str, tmp_path: Path) -> None:
    assert_caught(check, triton, kernel, old, new, tmp_path)


def test_the_operators_are_well_behaved() -> None:
    draw = torch.Generator().manual_seed(0)
    first, last = ranges((1, 3), 9, draw)
    inputs = torch.randn(1, 3, 2, 16, generator=draw), torch.randn(1, 9, 16, generator=draw), torch.randn(1, 3, 2)
    torch.library.opcheck(operator.select_keys_fused, (*inputs, first, last, 4))
    torch.library.opcheck(operator.select_keys, (torch.randn(1, 3, 9), first, last, 4))


def test_without_triton_blocks_of_queries_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operator, "BLOCK", 4)

    class OnCpu:
        select_keys_fused = staticmethod(select_keys_fused)

    check_fused(OnCpu)


def test_wrong_arguments_are_refused() -> None:
    query, key, weights = torch.zeros(1, 3, 2, 16), torch.zeros(1, 9, 16), torch.zeros(1, 3, 2)
    rows = torch.zeros(1, 3).long()
    with pytest.raises(ValueError, match="needs"):
        select_keys_fused(query, key, weights[:, :2], rows, rows, 4)
    with pytest.raises(ValueError, match="ranges"):
        select_keys_fused(query, key, weights, rows[:, :2], rows, 4)
    with pytest.raises(ValueError, match="k of at least 1"):
        select_keys_fused(query, key, weights, rows, rows, 0)
