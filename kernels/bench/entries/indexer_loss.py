"""The indexer's loss with its gradients, over visible keys (warm-up) and over listed keys (sparse training)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.bench.entry import Candidate, Entry, Inputs, Place, Shape
from kernels.lightning_indexer import operator

SCALE = 0.0625  # 256^-1/2, GLM-5's


def make(place: Place, s: Shape) -> Inputs:
    """Index query, key and weights; attention query [1, R, Ha, D] and latent [1, S, D]; first and last [1, R]."""
    last = torch.arange(s["S"] - s["R"] + 1, s["S"] + 1, device=place.device).unsqueeze(0)
    return (
        place.randn(1, s["R"], s["H"], s["DI"]),
        place.randn(1, s["S"], s["DI"]),
        place.randn(1, s["R"], s["H"], scale=s["H"] ** -0.5),
        place.randn(1, s["R"], s["HA"], s["D"]),
        place.randn(1, s["S"], s["D"]),
        torch.zeros_like(last),
        last,
    )


def make_listed(place: Place, s: Shape) -> Inputs:
    """The same with the keys of each query, [1, R, K] int32, instead of ranges."""
    return *make(place, s)[:5], place.distinct(s["R"], s["K"], s["S"]).unsqueeze(0)


def visible(*inputs: Tensor) -> tuple[Tensor, ...]:
    """The kernels, the sums of the teacher's softmax included."""
    *index, query, latent, first, last = inputs
    lse = operator.attention_lse(query, latent, first, last, SCALE)
    found: tuple[Tensor, ...] = operator.indexer_loss_visible(*index, query, latent, lse, first, last, SCALE, True)
    return found


def plain_visible(*inputs: Tensor) -> tuple[Tensor, ...]:
    """The formula, differentiated by autograd: every score and weight is kept."""
    *inputs_but, first, last = inputs
    key = torch.arange(inputs[1].shape[1], device=first.device)
    seen = (key >= first.unsqueeze(-1)) & (key < last.unsqueeze(-1))
    return _plain(inputs_but, seen)


def listed(*inputs: Tensor) -> tuple[Tensor, ...]:
    """The kernels; the softmax's sums are those that attention over the list left."""
    *index, query, latent, keys = inputs
    lse = _sums(query, latent, _mask(keys, latent.shape[1]))
    found: tuple[Tensor, ...] = operator.indexer_loss_listed(*index, query, latent, lse.float(), keys, SCALE, True)
    return found


def plain_listed(*inputs: Tensor) -> tuple[Tensor, ...]:
    """The formula over a mask of the listed keys."""
    return _plain(inputs[:5], _mask(inputs[5], inputs[1].shape[1]))


def _mask(keys: Tensor, count: int) -> Tensor:
    return torch.zeros(*keys.shape[:2], count, dtype=torch.bool, device=keys.device).scatter_(-1, keys.long(), True)


def _scores(query: Tensor, latent: Tensor, seen: Tensor) -> Tensor:
    scores = torch.einsum("brhd,bsd->brhs", query, latent)
    wide = scores if scores.dtype == torch.float64 else scores.float()
    return (wide * SCALE).masked_fill(~seen.unsqueeze(2), -torch.inf)


def _sums(query: Tensor, latent: Tensor, seen: Tensor) -> Tensor:
    return _scores(query, latent, seen).logsumexp(-1)


def _plain(inputs: Any, seen: Tensor) -> tuple[Tensor, ...]:
    query, key, weights = leaves = [x.detach().requires_grad_() for x in inputs[:3]]
    teacher = _scores(inputs[3], inputs[4], seen).softmax(-1).mean(2)
    products = torch.einsum("bthd,bsd->bths", query, key).relu()
    wide = products if products.dtype == torch.float64 else products.float()
    scores = torch.einsum("bth,bths->bts", weights.to(wide.dtype), wide) * query.shape[-1] ** -0.5
    student = scores.masked_fill(~seen, -torch.inf).log_softmax(-1).masked_fill(~seen, 0.0)
    loss = (torch.xlogy(teacher, teacher) - teacher * student).sum() / scores[..., 0].numel()
    return loss.detach(), *torch.autograd.grad(loss, leaves)


_CHECK = {"R": 32, "S": 512, "H": 32, "DI": 128, "HA": 16, "D": 576}
_TINY = {"R": 3, "S": 20, "H": 2, "DI": 16, "HA": 2, "D": 32}
ENTRIES = [
    Entry(
        name="indexer_loss.visible",
        make=make,
        kernel=visible,
        plain=plain_visible,
        shapes=[{"R": 512, "S": 32_768, "H": 32, "DI": 128, "HA": 64, "D": 576}],
        check=_CHECK,
        tiny=_TINY,
        flops=lambda s: 2.0 * s["R"] * s["S"] * (2 * s["HA"] * s["D"] + 4 * s["H"] * s["DI"]),
        baselines=[Candidate("torch, all scores kept", plain_visible)],
    ),
    Entry(
        name="indexer_loss.listed",
        make=make_listed,
        kernel=listed,
        plain=plain_listed,
        shapes=[],  # the operation wants sums that attention has left; making them would be what is timed
        check=_CHECK | {"K": 128},
        tiny=_TINY | {"K": 6},
        flops=lambda s: 0.0,
    ),
]
