"""Under autocast to bfloat16 the operands of large products are rounded, and nothing else is."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.grouped_experts import grouped_experts
from kernels.grouped_experts.groups import Groups
from kernels.lightning_indexer import index_scores, index_scores_gradients
from kernels.linear import linear
from kernels.linear_cross_entropy import linear_cross_entropy
from kernels.precision import exact, rounds
from kernels.rms_norm import rms_norm
from kernels.sparse_attention import attention_distribution, listed_attention, masked_attention

ROUNDING = 2.0**-8  # of one number to bfloat16's eight significant bits, at worst


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def autocast() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.detach() - expected.detach()).norm() / expected.detach().norm().clamp(min=1e-30))


def gradients(work: Callable[..., Tensor], inputs: list[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Backward runs outside autocast, as DeepSpeed has it."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    with autocast():
        out = work(*leaves)
    return out, torch.autograd.grad((out * normal(*out.shape, seed=9)).sum(), leaves)


def test_autocast_is_seen_and_left() -> None:
    x = torch.zeros(1)
    assert not rounds(x)
    with autocast():
        assert rounds(x)
        with exact(x):
            assert not rounds(x)
        assert rounds(x)
    with torch.autocast("cpu", torch.float16):
        assert not rounds(x)
    assert not rounds(torch.zeros(1, device="meta"))


def test_linear_without_autocast_is_that_of_torch() -> None:
    x, weight = normal(3, 5, 32), normal(16, 32, seed=1)
    assert torch.equal(linear(x, weight), F.linear(x, weight))
    with pytest.raises(ValueError, match="linear got x"):
        linear(x, weight.t())


def test_linear_rounds_its_operands_and_its_products_only() -> None:
    x, weight = normal(3, 5, 32), normal(16, 32, seed=1)
    out, (grad_x, grad_weight) = gradients(linear, [x, weight])
    slope = normal(*out.shape, seed=9).bfloat16().double()
    wide_x, wide_weight = x.bfloat16().double(), weight.bfloat16().double()
    assert out.dtype == grad_x.dtype == grad_weight.dtype == torch.float32
    expected = F.linear(wide_x, wide_weight), slope @ wide_weight, slope.flatten(0, 1).t() @ wide_x.flatten(0, 1)
    for found, exactly in zip((out, grad_x, grad_weight), expected, strict=True):
        assert torch.allclose(found.double(), exactly, rtol=ROUNDING, atol=1e-5)


def test_linear_makes_only_the_gradients_that_are_asked_for() -> None:
    x, weight = normal(4, 8), normal(8, 8, seed=1).requires_grad_()
    with autocast():
        linear(x, weight).sum().backward()
    assert x.grad is None
    assert weight.grad is not None


def test_groups_are_sorted_padded_and_complete() -> None:
    experts = torch.tensor([[2, 0], [0, 2], [0, 4]])  # 1 and 3 get none
    groups = Groups.of(experts, 5, 4)
    assert groups.bounds == [4, 4, 8, 8, 12]
    assert groups.source[groups.slot].view(3, 2).tolist() == [[0, 0], [1, 1], [2, 2]]
    owner = torch.bucketize(groups.slot, torch.tensor(groups.bounds), right=True)
    assert torch.equal(owner.view(3, 2), experts)
    spread = groups.spread(torch.arange(1.0, 7.0).view(3, 2))
    assert spread[groups.slot].tolist() == [1, 2, 3, 4, 5, 6]
    assert spread.sum() == 21


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 300])
def test_experts_of_any_load_are_close_to_fp32(tokens: int) -> None:
    x, gate_up, down = normal(tokens, 32), normal(6, 96, 32, seed=1) / 6, normal(6, 32, 48, seed=2) / 7
    # Two experts get nothing, one almost everything
    experts = torch.stack([torch.zeros(tokens, dtype=torch.long), torch.arange(tokens) % 3 + 1], 1)
    weights = normal(tokens, 2, seed=3).sigmoid()

    def work(*inputs: Tensor) -> Tensor:
        return grouped_experts(inputs[0], experts, *inputs[1:])

    inputs = [x, weights, gate_up, down]
    out, found = gradients(work, inputs)
    leaves = [i.clone().requires_grad_() for i in inputs]
    plain = work(*leaves)
    expected = torch.autograd.grad((plain * normal(*plain.shape, seed=9)).sum(), leaves)
    assert out.dtype == torch.float32
    assert 0 < error(out, plain) < 4 * ROUNDING
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        assert error(a, b) < 12 * ROUNDING  # one token alone may have products that nearly cancel
    assert not found[2][4:].any()
    assert not found[3][4:].any()


def test_cross_entropy_is_close_to_fp32() -> None:
    hidden, weight, targets = normal(70, 32), normal(50, 32, seed=1) / 6, torch.arange(70) % 50
    out, found = gradients(lambda h, w: linear_cross_entropy(h, w, targets), [hidden, weight])
    leaves = [i.clone().requires_grad_() for i in (hidden, weight)]
    plain = linear_cross_entropy(*leaves, targets)
    expected = torch.autograd.grad((plain * normal(*plain.shape, seed=9)).sum(), leaves)
    assert out.dtype == torch.float32
    assert 0 < error(out, plain) < 4 * ROUNDING
    assert all(error(a, b) < 4 * ROUNDING for a, b in zip(found, expected, strict=True))


def test_what_decides_and_what_normalises_is_that_of_fp32() -> None:
    query, key, weights = normal(2, 5, 3, 8), normal(2, 7, 8, seed=1), normal(2, 5, 3, seed=2)
    q, k, v = normal(2, 3, 7, 8), normal(2, 3, 7, 8, seed=1), normal(2, 3, 7, 8, seed=2)
    mask = torch.ones(7, 7, dtype=torch.bool).tril().expand(2, 7, 7)
    lists = torch.arange(7, dtype=torch.int32).expand(2, 7, 7).masked_fill(~mask, -1)
    works: list[Callable[[], Tensor]] = [
        lambda: index_scores(query, key, weights),
        lambda: torch.cat([g.flatten() for g in index_scores_gradients(query, key, weights, normal(2, 5, 7))]),
        lambda: attention_distribution(q, k, mask, 0.3),
        lambda: masked_attention(q, k, v, None, 0.3),
        lambda: masked_attention(q, k, v, mask, 0.3),
        lambda: listed_attention(q, k, v, lists, 0.3),
        lambda: rms_norm(q, torch.ones(8), 1e-6),
    ]
    for number, work in enumerate(works):
        plain = work()
        with autocast():
            found = work()
        assert found.dtype == torch.float32
        assert torch.equal(found, plain), number


def test_rounding_is_unbiased_over_many_rows() -> None:
    """Truncation would shrink every product by half a unit; rounding to nearest does not."""
    x, weight = normal(256, 256).abs(), normal(64, 256, seed=1).abs()
    with autocast():
        found = linear(x, weight)
    bias = float((found / F.linear(x, weight) - 1).mean())
    assert abs(bias) < ROUNDING / math.sqrt(256)
