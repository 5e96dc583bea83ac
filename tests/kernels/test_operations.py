"""The smaller operations against their formulas."""

import pytest
import torch
import torch.nn.functional as F

from kernels.grouped_experts import grouped_experts
from kernels.lightning_indexer import index_scores, index_scores_gradients
from kernels.linear_cross_entropy import linear_cross_entropy
from kernels.rms_norm import rms_norm
from kernels.rope import apply_rope, rope_table


def test_index_scores_follow_the_paper() -> None:
    query, key, weights = torch.randn(2, 5, 3, 8), torch.randn(2, 7, 8), torch.randn(2, 5, 3)
    expected = torch.zeros(2, 5, 7)
    for head in range(3):
        products = torch.einsum("btd,bsd->bts", query[:, :, head], key)
        expected += weights[:, :, head, None] * products.relu() * 8**-0.5
    assert torch.allclose(index_scores(query, key, weights), expected, atol=1e-5)


def test_index_scores_have_the_gradients_of_the_formula() -> None:
    inputs = [torch.randn(1, 4, 2, 4), torch.randn(1, 5, 4), torch.randn(1, 4, 2)]
    inputs = [x.double().requires_grad_() for x in inputs]
    query, key, weights = inputs
    products = torch.einsum("bthd,bsd->bhts", query, key).relu() * 4**-0.5
    plain = torch.autograd.grad((products * weights.transpose(1, 2)[..., None]).sum(1).square().sum(), inputs)
    found = torch.autograd.grad(index_scores(query, key, weights).square().sum(), inputs)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(found, plain, strict=True))


def test_index_scores_gradients_are_those_of_autograd() -> None:
    inputs = [torch.randn(2, 4, 3, 8), torch.randn(2, 7, 8), torch.randn(2, 4, 3)]
    slope = torch.randn(2, 4, 7)
    leaves = [x.clone().requires_grad_() for x in inputs]
    expected = torch.autograd.grad((index_scores(*leaves) * slope).sum(), leaves)
    found = index_scores_gradients(*inputs, slope)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("shape", [(6, 16), (2, 3, 16)])
def test_rms_norm_follows_the_formula_and_its_gradient(shape: tuple[int, ...]) -> None:
    x, weight = torch.randn(shape, dtype=torch.float32, requires_grad=True), torch.randn(16, requires_grad=True)
    plain = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight
    found = rms_norm(x, weight, 1e-5)
    assert torch.allclose(found, plain, atol=1e-6)
    slope = torch.randn(shape)
    ours = torch.autograd.grad((found * slope).sum(), (x, weight))
    theirs = torch.autograd.grad((plain * slope).sum(), (x, weight))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, theirs, strict=True))


def test_rope_rotates_neighbouring_dimensions_and_depends_on_distance_only() -> None:
    query, key = torch.randn(8), torch.randn(8)
    table = rope_table(torch.tensor([0, 3, 7, 10]), 8, 10000.0)
    q, k = apply_rope(query.expand(4, 8), table), apply_rope(key.expand(4, 8), table)
    assert torch.equal(q[0], query)
    assert torch.allclose(q[1] @ k[0], q[3] @ k[2], atol=1e-5)
    angle = torch.tensor(3 * 10000.0 ** (-2 / 8))
    expected = query[2] * angle.cos() - query[3] * angle.sin(), query[2] * angle.sin() + query[3] * angle.cos()
    assert torch.allclose(q[1, 2:4], torch.stack(expected), atol=1e-6)


def test_grouped_experts_equal_a_loop_over_tokens_with_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((11, 6), (11, 2), (4, 10, 6), (4, 6, 5))
    x, weights, gate_up, down = (torch.randn(s, generator=generator).requires_grad_() for s in shapes)
    experts = torch.stack([torch.randperm(3, generator=generator)[:2] for _ in range(11)])  # expert 3 gets none
    rows = []
    for token in range(11):
        parts = [(gate_up[e] @ x[token]).chunk(2) for e in experts[token]]
        outs = [down[e] @ (F.silu(gate) * up) for e, (gate, up) in zip(experts[token], parts, strict=True)]
        rows.append(sum(w * out for w, out in zip(weights[token], outs, strict=True)))
    expected, found = torch.stack(rows), grouped_experts(x, experts, weights, gate_up, down)  # type: ignore[arg-type]
    assert torch.allclose(found, expected, atol=1e-5)
    inputs = (x, weights, gate_up, down)
    ours, theirs = torch.autograd.grad(found.cos().sum(), inputs), torch.autograd.grad(expected.cos().sum(), inputs)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, theirs, strict=True))


def test_linear_cross_entropy_equals_its_two_parts_with_gradients() -> None:
    hidden, weight = torch.randn(9, 6, requires_grad=True), torch.randn(13, 6, requires_grad=True)
    targets, slope = torch.randint(0, 13, (9,)), torch.rand(9)
    found = linear_cross_entropy(hidden, weight, targets)
    expected = F.cross_entropy(hidden @ weight.t(), targets, reduction="none")
    assert torch.allclose(found, expected, atol=1e-5)
    ours = torch.autograd.grad((found * slope).sum(), (hidden, weight))
    theirs = torch.autograd.grad((expected * slope).sum(), (hidden, weight))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, theirs, strict=True))


def test_sizes_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="rms_norm"):
        rms_norm(torch.zeros(2, 3), torch.ones(4), 1e-5)
    with pytest.raises(ValueError, match="even"):
        rope_table(torch.arange(3), 5, 1e4)
    with pytest.raises(ValueError, match="index_scores"):
        index_scores(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 5), torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match="slope of shape"):
        index_scores_gradients(
            torch.zeros(1, 2, 3, 4), torch.zeros(1, 5, 4), torch.zeros(1, 2, 3), torch.zeros(1, 2, 4)
        )
    with pytest.raises(ValueError, match="linear_cross_entropy"):
        linear_cross_entropy(torch.zeros(2, 3), torch.zeros(5, 3), torch.zeros(3).long())
