"""Root-mean-square normalisation: the kernels (by Triton's interpreter) against the formula in float64."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import launch
from kernels.rms_norm import api, operator, rms_norm, triton
from tests.kernels.errors import relative_error
from tests.kernels.mutation import assert_caught

TOLERANCE = 1e-5
EPS = 1e-2  # large enough to matter in a check
pytestmark = pytest.mark.usefixtures("poisoned")


def problem(rows: int = 21, width: int = 37, seed: int = 0, size: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """x [3, rows / 3, width] as a slice of wider rows, weight [width] and the gradient of the result."""
    draw = torch.Generator().manual_seed(seed)
    wide = torch.randn(rows, width + 5, generator=draw) * size
    weight, grad = torch.randn(width, generator=draw), torch.randn(rows, width, generator=draw)
    groups = 3 if rows % 3 == 0 else 1
    return wide.view(groups, -1, width + 5)[..., 2:-3], weight, grad.view(groups, -1, width)


def expected(x: Tensor, weight: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """The result and the gradients of x and weight in float64."""
    inputs = x.double().requires_grad_(), weight.double().requires_grad_()
    out = inputs[0] / (inputs[0].square().mean(-1, keepdim=True) + EPS).sqrt() * inputs[1]
    return out.detach(), *torch.autograd.grad(out, inputs, grad.double())


def check(kernels, p: tuple[Tensor, Tensor, Tensor] | None = None) -> None:
    x, weight, grad = p or problem()
    wanted = expected(x, weight, grad)
    out, scale = kernels.forward(x, weight, EPS)
    found = out, *kernels.backward(x, weight, scale, grad)
    # with few elements a gradient can be the small rest of large terms
    floors = 1e-30, float((grad * weight).norm() * scale.max()), float(grad.norm())
    for ours, theirs, floor in zip(found, wanted, floors, strict=True):
        assert ours.shape == theirs.shape
        assert relative_error(ours, theirs, floor) <= TOLERANCE


@settings(max_examples=12, deadline=None)
@given(
    rows=st.integers(1, 30),
    width=st.integers(1, 70),
    tile=st.sampled_from([64, 256, 4096]),
    size=st.sampled_from([1e-3, 1.0, 1e3]),
    seed=st.integers(0, 99),
)
def test_any_shape_in_any_tile(rows: int, width: int, tile: int, size: float, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton, "TILE", tile)
        check(triton, problem(rows, width, seed, size))


def test_wide_rows() -> None:
    check(triton, problem(3, 5000))


def test_no_rows() -> None:
    x, weight = torch.zeros(0, 8), torch.ones(8)
    out, scale = triton.forward(x, weight, EPS)
    grad_x, grad_weight = triton.backward(x, weight, scale, x)
    assert out.shape == grad_x.shape == (0, 8)
    assert not grad_weight.any()


def test_rows_that_are_columns_of_something() -> None:
    x, weight, grad = torch.randn(9, 4).t(), torch.randn(9), torch.randn(4, 9)
    check(triton, (x, weight, grad))


def test_the_sum_for_the_weight_is_the_same_every_time() -> None:
    x, weight, grad = problem()
    _, scale = triton.forward(x, weight, EPS)
    one, two = (triton.backward(x, weight, scale, grad)[1] for _ in range(2))
    assert torch.equal(one, two)


MUTANTS = [  # kernel, what stands there, what breaks it
    ("_forward", "/ D + eps", "/ BD + eps"),
    ("_forward", "/ D + eps", "/ D"),
    ("_forward", "* w[None, :]", ""),
    ("_forward", "row[:, None] * stride", "row[:, None] * D"),
    ("_forward", "(row < rows)[:, None]", "(row < rows - 1)[:, None]"),
    ("_backward", "along * normed", "along * wide"),
    ("_backward", "g * w * normed", "g * normed"),
    ("_backward", "sums += g * normed", "sums = g * normed"),
    ("_backward", "tl.num_programs(0) * BR", "rows"),
    ("_backward", "(tl.program_id(0) * BR, rows", "(0, rows"),
    ("_backward", "row[:, None] * stride", "row[:, None] * D"),
]


@pytest.mark.parametrize(("kernel", "old", "new"), MUTANTS)
def test_a_broken_kernel_is_noticed(kernel: str, old: str, new: str, tmp_path: Path) -> None:
    def in_small_tiles(kernels) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernels, "TILE", 128)
            check(kernels)

    assert_caught(in_small_tiles, triton, kernel, old, new, tmp_path)


def test_the_operator_is_well_behaved() -> None:
    x, weight, _ = problem(rows=4)
    torch.library.opcheck(operator.rms_norm, (x.contiguous().requires_grad_(), weight.requires_grad_(), EPS))


def test_gpu_and_cpu_paths_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, grad = problem()
    inputs = x.requires_grad_(), weight.requires_grad_()

    def results() -> tuple[Tensor, ...]:
        out = rms_norm(*inputs, EPS)
        return out.detach(), *torch.autograd.grad(out, inputs, grad)

    on_cpu = results()
    monkeypatch.setattr(launch, "on_gpu", lambda x: True)
    for found, wanted in zip(results(), on_cpu, strict=True):
        assert relative_error(found, wanted) <= TOLERANCE
    too_wide = torch.randn(1, api.WIDEST + 1)
    assert rms_norm(too_wide, torch.ones(api.WIDEST + 1), EPS).isfinite().all()


def test_without_triton_the_operator_computes_the_same() -> None:
    x, weight, grad = (t.double() for t in problem())
    out, scale = operator.rms_norm(x, weight, EPS)
    for_x, for_weight = operator.rms_norm_backward(x, weight, scale, grad)
    for found, wanted in zip((out, for_x, for_weight), expected(x, weight, grad), strict=True):
        assert found.dtype == torch.float64
        assert relative_error(found, wanted) <= TOLERANCE
