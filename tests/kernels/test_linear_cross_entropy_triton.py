"""Cross-entropy of a linear layer: the kernels (by Triton's interpreter) against the formula in float64."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import launch
from kernels.linear_cross_entropy import formula, linear_cross_entropy, operator, triton, weighted_cross_entropy
from tests.kernels.errors import relative_error
from tests.kernels.mutation import assert_caught

TOLERANCE = 1e-5
IGNORE = -100
pytestmark = pytest.mark.usefixtures("poisoned")


class Problem(NamedTuple):
    """hidden [N, D], weight [V, D], targets [N], grads [N] of the losses."""

    hidden: Tensor
    weight: Tensor
    targets: Tensor
    grads: Tensor
    z_loss: float


def problem(rows: int = 7, width: int = 6, vocabulary: int = 37, seed: int = 0, size: float = 1.0) -> Problem:
    """Every fourth target is ignored."""
    draw = torch.Generator().manual_seed(seed)
    hidden, weight = (torch.randn(n, width, generator=draw) for n in (rows, vocabulary))
    targets = torch.randint(vocabulary, (rows,), generator=draw)
    targets[3::4] = IGNORE
    return Problem(hidden * size, weight, targets, torch.randn(rows, generator=draw), 0.1)


def expected(p: Problem) -> tuple[Tensor, ...]:
    """losses, logsumexp and the gradients of hidden and weight in float64."""
    hidden, weight, grads = p.hidden.double(), p.weight.double(), p.grads.double()
    losses = formula.losses(hidden, weight, p.targets, IGNORE, p.z_loss)
    return *losses, *formula.gradients(hidden, weight, p.targets, grads, IGNORE, p.z_loss)


def check_forward(kernels, p: Problem | None = None) -> None:
    p = p or problem()
    wanted = expected(p)[:2]
    found = kernels.forward(p.hidden, p.weight, p.targets, IGNORE, p.z_loss)
    floor = float(wanted[1].norm())  # a loss near 0 is the difference of large terms
    assert all(relative_error(a, b, floor) <= TOLERANCE for a, b in zip(found, wanted, strict=True))
    assert (found[0][p.targets == IGNORE] == 0).all()


def check_backward(kernels, p: Problem | None = None) -> None:
    p = p or problem()
    _, lse, for_hidden, for_weight = expected(p)
    found = kernels.backward(p.hidden, p.weight, p.targets, lse.float(), p.grads, IGNORE, p.z_loss)
    assert relative_error(found[0], for_hidden) <= TOLERANCE
    assert relative_error(found[1], for_weight) <= TOLERANCE


def check_weighted(kernels, p: Problem | None = None) -> None:
    p = p or problem()
    losses, lse, for_hidden, for_weight = expected(p)
    found = kernels.weighted(p.hidden, p.weight, p.targets, p.grads, IGNORE, p.z_loss)
    assert relative_error(found[0], losses, float(lse.norm())) <= TOLERANCE
    assert relative_error(found[1], for_hidden) <= TOLERANCE
    assert relative_error(found[2], for_weight) <= TOLERANCE


def check_extreme(kernels) -> None:
    check_forward(kernels, problem(size=1e3)._replace(z_loss=0.0))


@settings(max_examples=12, deadline=None)
@given(
    rows=st.integers(1, 9),
    width=st.integers(1, 20),
    vocabulary=st.sampled_from([2, 31, 64, 65, 200]),
    block=st.sampled_from([16, 64, 4096]),
    seed=st.integers(0, 99),
)
def test_any_shape_in_any_block(rows: int, width: int, vocabulary: int, block: int, seed: int) -> None:
    p = problem(rows, width, vocabulary, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton, "BLOCK", block)
        check_forward(triton, p)
        check_backward(triton, p)
        check_weighted(triton, p)


def test_chunks_of_rows_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem(rows=11)
    monkeypatch.setattr(triton, "LOGIT_BYTES", 3 * 4 * 37)  # three rows at once, two in the end
    check_forward(triton, p)
    check_backward(triton, p)
    check_weighted(triton, p)


def test_whole_tiles_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "LOGIT_BYTES", 300 * 4 * 2)
    sizes = [rows.stop - rows.start for rows, _ in triton._chunks(torch.zeros(600, 1), torch.zeros(2, 1))]
    assert sizes == [256, 256, 88]
    assert [rows for rows, _ in triton._chunks(torch.zeros(299, 1), torch.zeros(1, 1))] == [slice(0, 299)]


@pytest.mark.parametrize("size", [1e-20, 1e3])
def test_extreme_logits(size: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "BLOCK", 16)
    p = problem(size=size)._replace(z_loss=0.0)
    check_forward(triton, p)
    found = triton.backward(p.hidden, p.weight, p.targets, expected(p)[1].float(), p.grads, IGNORE, 0.0)
    assert relative_error(found[1], expected(p)[3], float(p.grads.norm() * size)) <= 1e-3  # lse of 1e4 has 1e-3 in fp32


def test_logits_of_minus_infinity_have_no_probability() -> None:
    logits = torch.tensor([[-torch.inf] * 20 + [1.0, 2.0, 0.0]])
    losses, lse = torch.empty(1), torch.empty(1)
    sizes = {"V": 23, "BV": 16, "STAGES": 1}
    triton._losses[(1,)](logits, torch.tensor([21]), losses, lse, IGNORE, 0.0, **sizes)
    assert torch.allclose(lse, logits.logsumexp(1))
    assert torch.allclose(losses, lse - 2)


def test_no_rows() -> None:
    p = problem(rows=0)
    losses, for_hidden, for_weight = triton.weighted(p.hidden, p.weight, p.targets, p.grads, IGNORE, 0.0)
    assert losses.shape == (0,)
    assert for_hidden.shape == (0, 6)
    assert not for_weight.any()


MUTANTS = [  # check, kernel, what stands there, what breaks it
    (check_forward, "_losses", "total * tl.exp(top - safe)", "total"),
    (check_extreme, "_losses", "tl.maximum(top, tl.max(x, 0))", "tl.max(x, 0)"),  # what came before overflows
    (check_forward, "_losses", "mask=column < V, other", "mask=column < V - 1, other"),
    (check_forward, "_losses", "tl.where(counts, norm", "tl.where(row >= 0, norm"),
    (check_forward, "_losses", "z_loss * norm * norm", "z_loss * norm"),
    (check_backward, "_slopes", "1.0 + 2.0 *", "1.0 +"),
    (check_backward, "_slopes", "column == target", "column == target + 1"),
    (check_backward, "_slopes", "target == ignore_index", "target == ignore_index - 1"),
    (check_weighted, "_slopes", "slope - 1.0, slope) * grad", "slope - 1.0, slope)"),
    (check_weighted, "_slopes", "tl.exp(x - norm)", "tl.exp(x)"),
]


@pytest.mark.parametrize(("check", "kernel", "old", "new"), MUTANTS)
def test_a_broken_kernel_is_noticed(check, kernel: str, old: str, new: str, tmp_path: Path) -> None:
    def in_small_blocks(kernels) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernels, "BLOCK", 16)
            check(kernels)

    assert_caught(in_small_blocks, triton, kernel, old, new, tmp_path)


def test_the_operators_are_well_behaved() -> None:
    p = problem(rows=3)
    inputs = p.hidden.requires_grad_(), p.weight.requires_grad_(), p.targets
    torch.library.opcheck(operator.linear_cross_entropy, (*inputs, IGNORE, 0.1))
    torch.library.opcheck(operator.weighted_cross_entropy, (*inputs, p.grads.requires_grad_(), IGNORE, 0.1))


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_gpu_and_cpu_paths_agree(z_loss: float, monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem()
    inputs = tuple(x.requires_grad_() for x in (p.hidden, p.weight, p.grads))

    def totals() -> tuple[Tensor, ...]:
        one = weighted_cross_entropy(p.hidden, p.weight, p.targets, p.grads, IGNORE, z_loss)
        two = (linear_cross_entropy(p.hidden, p.weight, p.targets, IGNORE, z_loss) * p.grads).sum()
        return one.detach(), two.detach(), *torch.autograd.grad(3 * one, inputs), *torch.autograd.grad(3 * two, inputs)

    on_cpu = totals()
    monkeypatch.setattr(launch, "on_gpu", lambda x: True)
    for found, wanted in zip(totals(), on_cpu, strict=True):
        assert relative_error(found, wanted) <= TOLERANCE
    with torch.no_grad():
        again = weighted_cross_entropy(p.hidden, p.weight, p.targets, p.grads, IGNORE, z_loss)
    assert relative_error(again, on_cpu[0]) <= TOLERANCE


def test_wrong_shapes_are_refused() -> None:
    p = problem()
    with pytest.raises(ValueError, match=r"needs \[N, D\] and \[V, D\]"):
        linear_cross_entropy(p.hidden[:, :3], p.weight, p.targets)
    with pytest.raises(ValueError, match="one type"):
        linear_cross_entropy(p.hidden, p.weight.double(), p.targets)
    with pytest.raises(ValueError, match="one weight a row"):
        weighted_cross_entropy(p.hidden, p.weight, p.targets, p.grads[:2])


def test_products_of_bfloat16_are_summed_in_fp32() -> None:
    """PyTorch's checks of types and shapes, on tensors without content."""
    hidden, weight = (torch.empty(n, 64, device="meta", dtype=torch.bfloat16) for n in (300, 1000))
    sums = triton._Gradients(hidden, weight)
    for rows, logits in triton._chunks(hidden, weight):
        assert (logits.shape, logits.dtype) == ((300, 1000), torch.float32)
        sums.add(rows, logits.to(weight.dtype))
    assert (sums.of_hidden.shape, sums.of_hidden.dtype) == (hidden.shape, torch.bfloat16)
    assert (sums.of_weight.shape, sums.of_weight.dtype) == (weight.shape, torch.float32)
