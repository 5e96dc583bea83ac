"""Rotary position embedding: the kernel (by Triton's interpreter) against complex numbers in float64."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import launch
from kernels.rope import apply_rope, operator, rope_table, triton
from tests.kernels.errors import relative_error
from tests.kernels.mutation import assert_caught

TOLERANCE = 1e-5
pytestmark = pytest.mark.usefixtures("poisoned")


def problem(batch: int = 2, tokens: int = 5, heads: int = 3, dim: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    """x [B, T, H, dim] as a slice of wider rows, and a table [B, T, 1, dim/2]."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, tokens, heads, dim + 6, generator=draw)[..., 6:]
    positions = torch.randint(10_000, (batch, tokens), generator=draw)
    return x, rope_table(positions, dim, 1e4).unsqueeze(2)


def expected(x: Tensor, table: Tensor, inverse: bool) -> Tensor:
    """In float64."""
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    turn = table.to(torch.complex128)
    return torch.view_as_real(pairs * (turn.conj() if inverse else turn)).flatten(-2)


def check(kernels, p: tuple[Tensor, Tensor] | None = None) -> None:
    x, table = p or problem()
    for inverse in (False, True):
        assert relative_error(kernels.rotate(x, table, inverse), expected(x, table, inverse)) <= TOLERANCE


@settings(max_examples=12, deadline=None)
@given(
    batch=st.integers(1, 3),
    tokens=st.integers(1, 6),
    heads=st.integers(1, 4),
    dim=st.sampled_from([2, 6, 16, 64]),
    tile=st.sampled_from([64, 2048]),
    seed=st.integers(0, 99),
)
def test_any_shape_in_any_tile(batch: int, tokens: int, heads: int, dim: int, tile: int, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton, "TILE", tile)
        check(triton, problem(batch, tokens, heads, dim, seed))


def test_tables_of_any_broadcastable_shape() -> None:
    x, table = problem()
    check(triton, (x[:, :, 0], table[:, :, 0]))  # no heads
    check(triton, (x, table[:1]))  # one table for the batch
    check(triton, (x, table[0]))
    check(triton, (x.transpose(1, 2), table.transpose(1, 2)))  # heads before tokens
    check(triton, (x[0, 0, 0], table[0, 0, 0]))
    check(triton, (x, table[:1, :1]))  # one rotation for all
    check(triton, (x[:0], table[:0]))


MUTANTS = [  # what stands there, what breaks it
    ("sin * SIGN", "sin"),
    ("left * sin + right * cos", "left * sin - right * cos"),
    ("row // repeat", "row // (repeat + 1)"),
    ("row[:, None] * stride", "row[:, None] * D"),
    ("(row < rows)[:, None]", "(row < rows - 1)[:, None]"),
]


@pytest.mark.parametrize(("old", "new"), MUTANTS)
def test_a_broken_kernel_is_noticed(old: str, new: str, tmp_path: Path) -> None:
    assert_caught(check, triton, "_rotate", old, new, tmp_path)


def test_the_operator_is_well_behaved() -> None:
    x, table = problem()
    torch.library.opcheck(operator.rotate, (x.contiguous().requires_grad_(), table, False))


def test_gpu_and_cpu_paths_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    x, table = problem()
    grad = torch.randn(x.shape)
    x.requires_grad_()
    on_cpu = apply_rope(x, table)
    monkeypatch.setattr(launch, "on_gpu", lambda x: True)
    on_gpu = apply_rope(x, table)
    assert relative_error(on_gpu.detach(), on_cpu.detach()) <= TOLERANCE
    ours, theirs = (torch.autograd.grad(out, x, grad)[0] for out in (on_gpu, on_cpu))
    assert relative_error(ours, theirs) <= TOLERANCE


def test_turning_back_undoes_the_turn() -> None:
    x, table = problem()
    assert relative_error(triton.rotate(triton.rotate(x, table, False), table, True), x) <= TOLERANCE
