"""Output layer and cross-entropy, forward and backward."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kernels.bench.entry import Candidate, Entry, Inputs, Place, Shape
from kernels.linear_cross_entropy import operator
from kernels.roofline import others

IGNORED = -100  # no target is
ROWS = 1024  # of logits at once in plain PyTorch


def make(place: Place, s: Shape) -> Inputs:
    """hidden [M, H], weight [V, H], targets [M] and a weight [M] of each loss."""
    weights = torch.full((s["M"],), 1 / s["M"], device=place.device)
    weight = place.randn(s["V"], s["H"], scale=s["H"] ** -0.5)
    return place.randn(s["M"], s["H"]), weight, place.integers(s["V"], s["M"]), weights


def kernel(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    """The weighted loss and its gradients, which are made with it."""
    leaves = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
    loss, *_ = operator.weighted_cross_entropy(*leaves, targets, weights, IGNORED, 0.0)
    return loss.detach(), *torch.autograd.grad(loss, leaves)


def plain(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    """The same in chunks of rows, whose logits are computed again for the gradients."""
    leaves = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
    parts = zip(*(x.split(ROWS) for x in (leaves[0], targets, weights)), strict=True)
    losses = [checkpoint(_chunk, h, leaves[1], t, w, use_reentrant=False) for h, t, w in parts]
    loss = torch.stack(losses).sum()
    return loss.detach(), *torch.autograd.grad(loss, leaves)


def _chunk(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    logits = hidden @ weight.t()
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return (F.cross_entropy(logits, targets, reduction="none") * weights).sum()


ENTRIES = [
    Entry(
        name="linear_cross_entropy",
        make=make,
        kernel=kernel,
        plain=plain,
        shapes=[{"M": 8192, "H": 4096, "V": 131_072}],
        check={"M": 256, "H": 1024, "V": 32_768},
        tiny={"M": 6, "H": 16, "V": 50},
        flops=lambda s: others.cross_entropy_flops(s["M"], s["H"], s["V"]),
        baselines=[Candidate("torch, in chunks", plain)],
    )
]
