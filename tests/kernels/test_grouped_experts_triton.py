"""Routed experts by grouped products: the kernels (by Triton's interpreter) against one expert at a time in float64."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import launch
from kernels.grouped_experts import gates, grouped, grouped_experts, operator, triton
from tests.kernels.errors import relative_error
from tests.kernels.mutation import assert_caught

TOLERANCE = 1e-5
pytestmark = pytest.mark.usefixtures("poisoned")


class Problem(NamedTuple):
    """x [N, D], experts and weights [N, k], gate_up [E, 2F, D], down [E, D, F], grad [N, D]."""

    x: Tensor
    experts: Tensor
    weights: Tensor
    gate_up: Tensor
    down: Tensor
    grad: Tensor


def problem(tokens: int = 13, choices: int = 2, count: int = 6, inner: int = 20, seed: int = 0) -> Problem:
    """The first and the last expert get no token, and the token 0 gets a weight of 0."""
    draw = torch.Generator().manual_seed(seed)
    shapes = (tokens, 8), (count, 2 * inner, 8), (count, 8, inner), (tokens, 8)
    x, gate_up, down, grad = (torch.randn(shape, generator=draw) for shape in shapes)
    few = [1 + torch.randperm(count - 2, generator=draw)[:choices] for _ in range(tokens)]
    weights = torch.rand(tokens, choices, generator=draw)
    weights[0] = 0
    return Problem(x, torch.stack(few), weights, gate_up, down, grad)


def inputs_of(p: Problem) -> tuple[Tensor, ...]:
    return tuple(t.detach().requires_grad_() for t in (p.x, p.weights, p.gate_up, p.down))


def expected(p: Problem) -> tuple[Tensor, ...]:
    """The result and the gradients of x, weights, gate_up and down, every expert over all tokens, in float64."""
    leaves = tuple(t.double().requires_grad_() for t in (p.x, p.weights, p.gate_up, p.down))
    x, weights, gate_up, down = leaves
    out = torch.zeros_like(x)
    for expert in range(len(gate_up)):
        share = (weights * (p.experts == expert)).sum(1, keepdim=True)
        gate, up = (x @ gate_up[expert].t()).chunk(2, 1)
        out = out + share * ((F.silu(gate) * up) @ down[expert].t())
    return out.detach(), *torch.autograd.grad(out, leaves, p.grad.double())


def check_all(p: Problem) -> None:
    out, *kept = grouped.forward(p.x, p.experts, p.weights, p.gate_up, p.down)
    found = out, *grouped.backward(p.x, p.weights, p.gate_up, p.down, *kept, p.grad)
    for ours, theirs in zip(found, expected(p), strict=True):
        assert ours.shape == theirs.shape
        assert relative_error(ours, theirs, float(p.grad.norm())) <= TOLERANCE


@settings(max_examples=12, deadline=None)
@given(
    tokens=st.integers(1, 40),
    choices=st.integers(1, 3),
    count=st.integers(5, 9),
    inner=st.sampled_from([4, 20, 36]),
    block=st.sampled_from([16, 2048]),
    seed=st.integers(0, 99),
)
def test_any_routing_and_block(tokens: int, choices: int, count: int, inner: int, block: int, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton, "BLOCK", block)
        check_all(problem(tokens, choices, count, inner, seed))


def test_all_tokens_choose_one_expert() -> None:
    p = problem(choices=1)
    check_all(p._replace(experts=torch.full_like(p.experts, 3)))


def between(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """wide [5, 2 * 20], weights [5] and grad [5, 20]."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(5, 40, generator=draw), torch.rand(5, generator=draw), torch.randn(5, 20, generator=draw)


def check_forward(kernels) -> None:
    wide, weights, _ = between()
    wanted = gates.weighted_swiglu(wide.double(), weights.double())
    assert relative_error(kernels.weighted_swiglu(wide, weights), wanted) <= TOLERANCE


def check_backward(kernels) -> None:
    wide, weights, grad = between()
    leaves = wide.double().requires_grad_(), weights.double().requires_grad_()
    active = gates.weighted_swiglu(*leaves)
    for_wide, for_weights = torch.autograd.grad(active, leaves, grad.double())
    found = kernels.weighted_swiglu_gradients(wide, weights, grad)
    for ours, theirs in zip(found, (for_wide, active.detach(), for_weights), strict=True):
        assert relative_error(ours, theirs) <= TOLERANCE


def check_clearing(kernels) -> None:
    grad = torch.full((5, 7, 6), torch.nan)
    kernels.clear_empty(grad, torch.tensor([0, 3, 3, 4, 4], dtype=torch.int32))
    assert (grad[[0, 2, 4]] == 0).all()
    assert grad[[1, 3]].isnan().all()


def test_plain_pytorch_computes_what_the_kernels_do() -> None:
    check_backward(gates)
    check_clearing(gates)


MUTANTS = [  # check, kernel, what stands there, what breaks it
    (check_forward, "_weighted_swiglu", "tl.sigmoid(gate)", "tl.sigmoid(up)"),
    (check_forward, "_weighted_swiglu", "* tl.load(weights + row).to(tl.float32)", ""),
    (check_forward, "_weighted_swiglu", "tl.program_id(1) * BF", "0"),
    (check_backward, "_weighted_swiglu_gradients", "sums += ", "sums = "),
    (check_backward, "_weighted_swiglu_gradients", "g * silu * up", "g * silu * up * weight"),
    (check_backward, "_weighted_swiglu_gradients", "(1.0 - sigmoid)", "(1.0 + sigmoid)"),
    (check_backward, "_weighted_swiglu_gradients", "pull = g * weight", "pull = g"),
    (check_backward, "_weighted_swiglu_gradients", "inside = column < F", "inside = column < F - 1"),
    (check_clearing, "_clear_empty", "expert > 0", "expert > 9"),
    (check_clearing, "_clear_empty", "start == tl", "start <= tl"),
    (check_clearing, "_clear_empty", "tl.program_id(1) * B, size", "0, B"),
]


@pytest.mark.parametrize(("check", "kernel", "old", "new"), MUTANTS)
def test_a_broken_kernel_is_noticed(check, kernel: str, old: str, new: str, tmp_path: Path) -> None:
    def in_small_blocks(kernels) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernels, "BLOCK", 16)
            check(kernels)

    assert_caught(in_small_blocks, triton, kernel, old, new, tmp_path)


def test_an_experts_gradient_is_zero_where_the_product_left_something(monkeypatch: pytest.MonkeyPatch) -> None:
    product = F.grouped_mm

    def careless(a: Tensor, b: Tensor, offs: Tensor) -> Tensor:
        out = product(a, b, offs=offs)
        return out.index_fill(0, torch.tensor([0, 5]), torch.nan) if out.ndim == 3 else out

    monkeypatch.setattr(F, "grouped_mm", careless)
    check_all(problem())


def test_the_operator_is_well_behaved() -> None:
    p = problem(tokens=5)
    x, weights, gate_up, down = inputs_of(p)
    torch.library.opcheck(operator.grouped_experts, (x, p.experts, weights, gate_up, down))


def test_gpu_and_cpu_paths_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem()

    def results() -> tuple[Tensor, ...]:
        x, weights, gate_up, down = leaves = inputs_of(p)
        out = grouped_experts(x, p.experts, weights, gate_up, down)
        return out.detach(), *torch.autograd.grad(out, leaves, p.grad)

    on_cpu = results()
    monkeypatch.setattr(launch, "on_gpu", lambda x: True)
    for found, wanted in zip(results(), on_cpu, strict=True):
        assert relative_error(found, wanted) <= TOLERANCE
    monkeypatch.setattr(
        operator, "grouped_experts", None
    )  # rows that are not a multiple of 16 bytes take the other path
    grouped_experts(p.x, p.experts, p.weights, p.gate_up[:, :38], p.down[..., :19])


def test_grouped_products_of_bfloat16_take_these_layouts() -> None:
    """PyTorch's checks of types, strides and alignment, on tensors without content."""
    shapes = {"x": (24, 64), "weights": (24, 2), "gate_up": (6, 64, 64), "down": (6, 64, 32)}
    p = {name: torch.empty(shape, device="meta", dtype=torch.bfloat16) for name, shape in shapes.items()}
    experts = torch.empty(24, 2, device="meta", dtype=torch.int64)
    out, *kept = grouped.forward(p["x"], experts, p["weights"], p["gate_up"], p["down"])
    found = grouped.backward(*p.values(), *kept, torch.empty_like(p["x"]))
    assert (out.shape, out.dtype) == ((24, 64), torch.bfloat16)
    assert [(g.shape, g.dtype) for g in found] == [(t.shape, t.dtype) for t in p.values()]
