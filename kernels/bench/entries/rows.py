"""Normalisation and rotary embedding, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.bench.entry import Candidate, Entry, Inputs, Place, Shape
from kernels.rms_norm import operator as norms
from kernels.rms_norm import reference as norms_reference
from kernels.rope import operator as ropes
from kernels.rope import reference as ropes_reference

EPS = 1e-6


def with_gradients(run: Callable[..., Tensor], leaves: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor, ...]:
    """What `run` returns and the gradients of the leaves."""
    leaves = tuple(x.detach().requires_grad_() for x in leaves)
    out = run(*leaves)
    return out.detach(), *torch.autograd.grad(out, leaves, grad)


def make_norm(place: Place, s: Shape) -> Inputs:
    """x [N, D], weight [D] and the slope of the output."""
    return place.randn(s["N"], s["D"]), place.randn(s["D"]), place.randn(s["N"], s["D"])


def norm(x: Tensor, weight: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """The kernels."""
    return with_gradients(lambda x, w: norms.rms_norm(x, w, EPS)[0], (x, weight), grad)


def plain_norm(x: Tensor, weight: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """The formula; in double precision torch's, which keeps it."""
    formula = F.rms_norm if x.dtype == torch.float64 else None
    run = (lambda x, w: formula(x, w.shape, w, EPS)) if formula else lambda x, w: norms_reference.rms_norm(x, w, EPS)
    return with_gradients(run, (x, weight), grad)


def torch_norm(x: Tensor, weight: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """torch's own operation."""
    return with_gradients(lambda x, w: F.rms_norm(x, w.shape, w, EPS), (x, weight), grad)


def make_rope(place: Place, s: Shape) -> Inputs:
    """x [1, N, H, D], the slope of the output, and the table [1, N, 1, D / 2] (which no type changes)."""
    table = ropes_reference.rope_table(torch.arange(s["N"], device=place.device), s["D"], 10_000.0)
    shape = (1, s["N"], s["H"], s["D"])
    return place.randn(*shape), place.randn(*shape), table[None, :, None]


def rotate(x: Tensor, grad: Tensor, table: Tensor) -> tuple[Tensor, ...]:
    """The kernel."""
    return with_gradients(lambda x: ropes.rotate(x, table, False), (x,), grad)


def plain_rotate(x: Tensor, grad: Tensor, table: Tensor) -> tuple[Tensor, ...]:
    """Pairs as complex numbers."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32

    def run(x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.to(wide).unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * table).flatten(-2).to(x.dtype)

    return with_gradients(run, (x,), grad)


_NOTHING: dict[str, Any] = {"flops": lambda s: 0.0}
ENTRIES = [
    Entry(
        name="rms_norm",
        make=make_norm,
        kernel=norm,
        plain=plain_norm,
        shapes=[{"N": 8192, "D": 6144}, {"N": 8192, "D": 512}],
        check={"N": 512, "D": 6144},
        tiny={"N": 5, "D": 24},
        bytes=lambda s: 10.0 * s["N"] * s["D"],
        baselines=[Candidate("torch.nn.functional.rms_norm", torch_norm), Candidate("torch, the formula", plain_norm)],
        **_NOTHING,
    ),
    Entry(
        name="rope",
        make=make_rope,
        kernel=rotate,
        plain=plain_rotate,
        shapes=[{"N": 8192, "H": 64, "D": 64}],
        check={"N": 512, "H": 64, "D": 64},
        tiny={"N": 3, "H": 2, "D": 8},
        bytes=lambda s: 8.0 * s["N"] * s["H"] * s["D"],
        baselines=[Candidate("torch, complex numbers", plain_rotate)],
        **_NOTHING,
    ),
]
