"""Sparse attention over latents: the kernels (by Triton's interpreter) against the formula in float64."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.sparse_attention import operator, reference, sparse_mla, triton
from tests.kernels.errors import relative_error
from tests.kernels.mutation import assert_caught

TOLERANCE = 1e-5
pytestmark = pytest.mark.usefixtures("poisoned")


class Problem(NamedTuple):
    """query [B, T, H, D], latent [B, S, D], index [B, T, K], grad_out [B, T, H, value_dim]."""

    query: Tensor
    latent: Tensor
    index: Tensor
    grad_out: Tensor
    scale: float


def problem(
    batch: int = 2, tokens: int = 3, keys: int = 170, heads: int = 5, topk: int = 150, seed: int = 0
) -> Problem:
    """Lists of different lengths: one empty, the others ragged, in no order."""
    draw = torch.Generator().manual_seed(seed)
    query = torch.randn(batch, tokens, heads, 80, generator=draw)
    latent = torch.randn(batch, keys, 80, generator=draw)
    index = torch.full((batch, tokens, topk), -1, dtype=torch.int32)
    for row in index.flatten(0, 1):
        count = int(torch.randint(1, min(topk, keys) + 1, (), generator=draw))
        row[:count] = torch.randperm(keys, generator=draw)[:count]
    index[-1, -1] = -1
    return Problem(query, latent, index, torch.randn(batch, tokens, heads, 64, generator=draw), 0.2)


def expected(p: Problem) -> tuple[Tensor, ...]:
    """out, lse and the gradients of query and latent in float64."""
    query, latent = (x.double().requires_grad_() for x in (p.query, p.latent))
    out, lse = reference.sparse_mla(query, latent, p.index, p.scale, 64)
    out.backward(p.grad_out.double())
    return out.detach(), lse.detach(), query.grad, latent.grad


def check_forward(kernels, p: Problem | None = None) -> None:
    p = p or problem()
    out, lse = kernels.forward(p.query, p.latent, p.index, p.scale, 64)
    wanted, wanted_lse, *_ = expected(p)
    some = wanted_lse > -torch.inf
    assert relative_error(out, wanted) <= TOLERANCE
    assert relative_error(lse[some], wanted_lse[some]) <= TOLERANCE
    assert (lse[~some] == -torch.inf).all()


def check_backward(kernels, p: Problem | None = None) -> None:
    p = p or problem()
    out, lse, for_query, for_latent = expected(p)
    found = kernels.backward(p.query, p.latent, p.index, out.float(), lse.float(), p.grad_out, p.scale)
    floor = float(p.grad_out.norm())  # equal keys have gradients that cancel
    assert relative_error(found[0], for_query, floor) <= TOLERANCE
    assert relative_error(found[1], for_latent, floor) <= TOLERANCE


@settings(max_examples=8, deadline=None)
@given(
    batch=st.integers(1, 2),
    tokens=st.integers(1, 4),
    keys=st.integers(1, 70),
    heads=st.sampled_from([1, 3, 16, 17, 66]),
    topk=st.sampled_from([1, 7, 64, 65]),
    seed=st.integers(0, 99),
)
def test_any_shape_forward_and_backward(batch: int, tokens: int, keys: int, heads: int, topk: int, seed: int) -> None:
    p = problem(batch, tokens, keys, heads, topk, seed)
    check_forward(triton, p)
    check_backward(triton, p)


def test_slopes_in_chunks_give_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem()
    monkeypatch.setattr(triton, "SLOPE_BYTES", 4 * 5 * 150 * 4)  # four tokens of six at once
    check_backward(triton, p)


def test_equal_scores_share_the_weight() -> None:
    p = problem(keys=6, topk=4)
    same = p._replace(latent=p.latent[:, :1].expand_as(p.latent).contiguous())
    check_forward(triton, same)
    check_backward(triton, same)


MUTANTS = [  # check, kernel, what stands there, what breaks it
    (
        check_forward,
        "_forward",
        'listed[None, :], score * (scale * LOG2E), float("-inf")',
        "key[None, :] > -9, score, score",
    ),
    (check_forward, "_forward", "shrink = tl.exp2(top - safe)", "shrink = tl.exp2(safe - safe)"),
    (check_forward, "_forward", "tl.dot(q_rotary", "tl.dot(q_rotary * 0"),
    (check_forward, "_forward", "(row // tokens)", "(row // row)"),
    (check_forward, "_forward", "(head < H)", "(head < H - 1)"),
    (check_backward, "_mean_slope", "left * right", "left"),
    (check_backward, "_backward_latent", "(pull - middle)", "pull"),
    (check_backward, "_backward_latent", "to + rotary, grad", "to + rotary, grad * 0"),
    (check_backward, "_backward_latent", "norm == float", "norm > float"),
    (check_backward, "_add", "tl.trans(grad)", "tl.trans(grad) - tl.load(to)"),  # the last addition is all that stays
    (check_backward, "_backward_query", "(row // tokens)", "0"),
    (check_backward, "_backward_query", "inside & listed[None, :]", "inside & (number > 0)[None, :]"),
]


@pytest.mark.parametrize(("check", "kernel", "old", "new"), MUTANTS)
def test_a_broken_kernel_is_noticed(check, kernel: str, old: str, new: str, tmp_path: Path) -> None:
    assert_caught(check, triton, kernel, old, new, tmp_path)


def test_the_operator_is_well_behaved() -> None:
    p = problem(keys=9, topk=5, heads=2)
    inputs = p.query.requires_grad_(), p.latent.requires_grad_(), p.index, p.scale, 64
    torch.library.opcheck(operator.sparse_mla, inputs)


def test_wrong_shapes_are_refused() -> None:
    p = problem()
    with pytest.raises(ValueError, match="needs \\[B, T, H, D\\]"):
        sparse_mla(p.query, p.latent[:1], p.index, p.scale, 64)
    with pytest.raises(ValueError, match="int32"):
        sparse_mla(p.query, p.latent, p.index.long(), p.scale, 64)
    with pytest.raises(ValueError, match="one type"):
        sparse_mla(p.query.bfloat16(), p.latent, p.index, p.scale, 64)
