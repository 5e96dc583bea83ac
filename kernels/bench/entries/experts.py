"""Routed experts, forward and backward."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.bench.entries.rows import with_gradients
from kernels.bench.entry import Candidate, Entry, Inputs, Place, Shape
from kernels.grouped_experts import operator
from kernels.roofline import others


def make(place: Place, s: Shape) -> Inputs:
    """x [N, D], weights [N, k], gate_up [E, 2F, D], down [E, D, F], the slope of the output, experts [N, k]."""
    experts = place.distinct(s["N"], s["K"], s["E"]).long()
    weights = torch.rand(s["N"], s["K"], device=place.device)
    gate_up = place.randn(s["E"], 2 * s["F"], s["D"], scale=s["D"] ** -0.5)
    down = place.randn(s["E"], s["D"], s["F"], scale=s["F"] ** -0.5)
    return place.randn(s["N"], s["D"]), weights, gate_up, down, place.randn(s["N"], s["D"]), experts


def kernel(
    x: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor, grad: Tensor, experts: Tensor
) -> tuple[Tensor, ...]:
    """Grouped products with the kernels between them."""
    leaves = (x, weights, gate_up, down)
    return with_gradients(lambda x, w, g, d: operator.grouped_experts(x, experts, w, g, d)[0], leaves, grad)


def plain(
    x: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor, grad: Tensor, experts: Tensor
) -> tuple[Tensor, ...]:
    """One expert after the other, each on the tokens that chose it."""

    def run(x: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for expert in range(gate_up.shape[0]):
            token, choice = (experts == expert).nonzero(as_tuple=True)
            gate, up = (x[token] @ gate_up[expert].t()).chunk(2, -1)
            found = (F.silu(gate) * up) @ down[expert].t()
            out = out.index_add(0, token, (found * weights[token, choice, None]).to(out.dtype))
        return out

    return with_gradients(run, (x, weights, gate_up, down), grad)


ENTRIES = [
    Entry(
        name="grouped_experts",
        make=make,
        kernel=kernel,
        plain=plain,
        shapes=[{"N": 8192, "D": 6144, "F": 2048, "E": 32, "K": 8}],  # an eighth of GLM-5's experts, on one of 8 GPUs
        check={"N": 256, "D": 512, "F": 256, "E": 8, "K": 2},
        tiny={"N": 7, "D": 16, "F": 8, "E": 4, "K": 2},
        flops=lambda s: others.experts_flops(s["N"] * s["K"], s["D"], s["F"]),
        baselines=[Candidate("torch, expert after expert", plain)],
    )
]
