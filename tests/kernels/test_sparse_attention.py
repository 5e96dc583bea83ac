"""Attention over listed keys: the C kernel against the reference, and the reference against the formula."""

import pytest
import torch
from torch import Tensor

from kernels.sparse_attention import (
    Pieces,
    attention_distribution,
    cpu,
    listed_attention,
    masked_attention,
    packed_attention,
    reference,
)


def problem(length: int = 37, k: int = 9, width: int = 16, value_width: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 3, length, width), (2, 3, length, width), (2, 3, length, value_width))
    query, key, value = (torch.randn(s, generator=generator) for s in shapes)
    lists = torch.full((2, length, k), -1, dtype=torch.int32)
    for b in range(2):
        for t in range(length):
            chosen = torch.randperm(t + 1, generator=generator)[:k].sort().values
            lists[b, t, : len(chosen)] = chosen.int()
    return [query, key, value, lists]


def by_hand(query: Tensor, key: Tensor, value: Tensor, lists: Tensor, scale: float) -> Tensor:
    out = torch.empty(*query.shape[:3], value.shape[-1])
    for b in range(query.shape[0]):
        for t in range(query.shape[2]):
            chosen = lists[b, t][lists[b, t] >= 0].long()
            weights = (query[b, :, t, None] * key[b][:, chosen]).sum(-1).mul(scale).softmax(-1)
            out[b, :, t] = (weights[..., None] * value[b][:, chosen]).sum(1)
    return out


@pytest.mark.parametrize("sizes", [(16, 8), (12, 6), (8, 16)])
def test_listed_attention_is_softmax_over_the_list(sizes: tuple[int, int]) -> None:
    query, key, value, lists = problem(width=sizes[0], value_width=sizes[1])
    expected = by_hand(query, key, value, lists, 0.3)
    for chosen in (listed_attention, reference.listed_attention):
        assert torch.allclose(chosen(query, key, value, lists, 0.3), expected, atol=1e-5)


def agrees(inputs: list[Tensor], lists: Tensor) -> None:
    """The C kernel's result and gradients are the reference's."""
    if not cpu.available(inputs[0], inputs[2]):
        pytest.skip("There is no C compiler here.")
    weights = torch.randn(*inputs[0].shape[:3], inputs[2].shape[-1])
    found = []
    for attention in (cpu.listed_attention, reference.listed_attention):
        leaves = [x.detach().requires_grad_() for x in inputs]
        out = attention(leaves[0], leaves[1], leaves[2], lists, 0.3)
        found.append([out, *torch.autograd.grad(out, leaves, weights)])
    for native, plain in zip(*found, strict=True):
        assert torch.allclose(native, plain, atol=1e-5)


@pytest.mark.parametrize("sizes", [(16, 8), (8, 16), (48, 32)])
def test_the_c_kernels_gradients_are_the_references(sizes: tuple[int, int]) -> None:
    *inputs, lists = problem(width=sizes[0], value_width=sizes[1])
    agrees(inputs, lists)


def test_the_c_kernel_takes_views_as_they_are() -> None:
    *inputs, lists = problem()
    by_token = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in inputs]  # as the network makes them
    part = torch.cat([by_token[1], by_token[2]], -1)[..., 16:]
    turned = inputs[0].transpose(2, 3).contiguous().transpose(2, 3)  # whose rows are not contiguous
    agrees([by_token[0], by_token[1], part], lists)
    agrees([turned, by_token[1].expand(2, 3, 37, 16), part], lists)


def test_more_queries_than_a_block_and_more_keys_than_the_cache_holds() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, keys = cpu.BLOCK + 30, 9000
    shapes = ((1, 2, queries, 16), (1, 2, keys, 16), (1, 2, keys, 8))
    lists = torch.stack([torch.randperm(keys, generator=generator)[:20] for _ in range(queries)])[None].int()
    lists[0, ::7, 13:] = -1
    agrees([torch.randn(s, generator=generator) for s in shapes], lists)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_result_does_not_depend_on_the_threads(threads: int) -> None:
    *inputs, lists = problem()
    leaves = [x.requires_grad_() for x in inputs]

    def result() -> list[Tensor]:
        out = listed_attention(leaves[0], leaves[1], leaves[2], lists, 0.3)
        return [out, *torch.autograd.grad(out.square().sum(), leaves)]

    before = torch.get_num_threads()
    once = result()
    try:
        torch.set_num_threads(threads)
        assert all(torch.equal(a, b) for a, b in zip(result(), once, strict=True))
    finally:
        torch.set_num_threads(before)


def test_without_gradients_the_result_is_the_same() -> None:
    *inputs, lists = problem()
    learning = listed_attention(inputs[0].requires_grad_(), inputs[1], inputs[2], lists, 0.3)
    with torch.no_grad():
        assert torch.equal(listed_attention(inputs[0], inputs[1], inputs[2], lists, 0.3), learning)


def test_the_teacher_is_the_mean_of_the_heads_weights() -> None:
    query, key, _, _ = problem()
    mask = torch.ones(37, 37, dtype=torch.bool).tril().expand(2, 37, 37)
    found = attention_distribution(query, key, mask, 0.3)
    scores = (query @ key.transpose(-1, -2) * 0.3).masked_fill(~mask[:, None], -torch.inf)
    assert torch.allclose(found, scores.softmax(-1).mean(1), atol=1e-6)
    assert torch.allclose(found.sum(-1), torch.ones(2, 37), atol=1e-5)


def test_mismatched_shapes_are_refused() -> None:
    query, key, value, lists = problem()
    with pytest.raises(ValueError, match="indices of shape"):
        listed_attention(query, key, value, lists[:, :5], 0.3)
    with pytest.raises(ValueError, match="mask of shape"):
        masked_attention(query, key, value, torch.ones(2, 3, 3, dtype=torch.bool), 0.3)


def test_the_c_kernel_leaves_subnormal_numbers_alone() -> None:
    listed_attention(*problem(), 0.3)
    assert float("1e-310") * 0.5 > 0
    assert (torch.tensor([2e-40]) * 0.5).item() > 0


@pytest.mark.parametrize("longest", [3, 20, 70])
def test_documents_cut_apart_are_attention_with_the_mask(longest: int) -> None:
    generator = torch.Generator().manual_seed(longest)
    length = 130
    boundaries = torch.rand(2, length, generator=generator) < 1 / longest
    documents = boundaries.cumsum(-1)
    starts = torch.where(documents.diff(prepend=documents[:, :1] - 1) != 0, torch.arange(length), 0).cummax(-1).values
    positions = torch.arange(length) - starts
    mask = (documents[:, :, None] == documents[:, None]) & torch.ones(length, length, dtype=torch.bool).tril()
    shapes = ((2, 3, length, 12), (2, 3, length, 12), (2, 3, length, 8))
    inputs = [torch.randn(s, generator=generator).requires_grad_() for s in shapes]
    slope = torch.randn(2, 3, length, 8, generator=generator)
    found = packed_attention(*inputs, Pieces.of(positions), 0.3)  # type: ignore[arg-type]
    expected = masked_attention(*inputs, mask, 0.3)  # type: ignore[arg-type]
    assert torch.allclose(found, expected, atol=1e-6)
    ours, theirs = (torch.autograd.grad((x * slope).sum(), inputs) for x in (found, expected))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, theirs, strict=True))


def test_pieces_of_other_tokens_are_refused() -> None:
    query, key, value, _ = problem()
    with pytest.raises(ValueError, match="pieces of 40 tokens"):
        packed_attention(query, key, value, Pieces.of(torch.arange(40)[None]), 0.3)
