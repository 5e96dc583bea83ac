"""Root-mean-square normalisation: the C kernel and the plain formula against float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.rms_norm import cpu, reference, rms_norm

EPS = 1e-5
Result = tuple[Tensor, Tensor, Tensor]


def in_float64(x: Tensor, weight: Tensor, slope: Tensor) -> Result:
    x, weight = x.double().requires_grad_(), weight.double().requires_grad_()
    out = x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight
    return (out.detach(), *torch.autograd.grad((out * slope).sum(), (x, weight)))


def error_ratio(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp(min=1e-12))


COMPILED = pytest.param(
    cpu.rms_norm,
    id="cpu",
    marks=pytest.mark.skipif(not cpu.available(torch.ones(1), torch.ones(1)), reason="there is no C compiler"),
)


@pytest.mark.parametrize("implementation", [COMPILED, pytest.param(reference.rms_norm, id="reference")])
@given(
    rows=st.integers(1, 40), width=st.integers(1, 70), seed=st.integers(0, 10**6), scale=st.sampled_from([1e-3, 1, 50])
)
@settings(max_examples=40, deadline=None)
def test_value_and_gradients(implementation: object, rows: int, width: int, seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, slope = (torch.randn(rows, width, generator=generator) * scale for _ in range(2))
    weight = torch.randn(width, generator=generator)
    expected = in_float64(x, weight, slope)
    leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
    out = implementation(*leaves, EPS)  # type: ignore[operator]
    found = (out.detach(), *torch.autograd.grad((out * slope).sum(), leaves))
    assert error_ratio(found[0], expected[0]) < 1e-6
    # with few elements a gradient can be the small rest of large terms
    size = slope.double().norm() / x.double().square().mean(-1).add(EPS).sqrt().min() * weight.double().abs().max()
    assert float((found[1] - expected[1]).norm() / size) < 1e-6
    assert error_ratio(found[2], expected[2]) < 1e-5


def test_rows_spread_over_threads_give_the_same() -> None:
    x, weight = torch.randn(3, cpu.SMALL // 64, 64), torch.randn(64)
    whole = x.clone().requires_grad_(), weight.clone().requires_grad_()
    out = rms_norm(*whole, EPS)
    grads = torch.autograd.grad(out.square().sum(), whole)
    expected = in_float64(x, weight, 2 * out.detach())
    assert error_ratio(out.detach(), expected[0]) < 1e-6
    assert error_ratio(grads[0], expected[1]) < 1e-6 * 64
    assert error_ratio(grads[1], expected[2]) < 1e-5
    again = torch.autograd.grad(rms_norm(*whole, EPS).square().sum(), whole)
    assert all(torch.equal(a, b) for a, b in zip(grads, again, strict=True))


def test_a_slice_is_taken_as_it_is() -> None:
    wide, weight = torch.randn(5, 24), torch.randn(16)
    assert torch.equal(rms_norm(wide[:, 4:20], weight, EPS), rms_norm(wide[:, 4:20].clone(), weight, EPS))


def test_other_types_take_the_formula() -> None:
    x, weight = torch.randn(3, 8, dtype=torch.bfloat16), torch.ones(8, dtype=torch.bfloat16)
    assert not cpu.available(x, weight)
    assert rms_norm(x, weight, EPS).dtype == torch.bfloat16
