"""The indexer's scores and losses as `torch.library` operators, so that compilers and checkpointing see one node."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels import launch
from kernels.lightning_indexer import reference


@torch.library.custom_op("longhaul::index_scores", mutates_args=())
def index_scores(query: Tensor, key: Tensor, weights: Tensor, first: Tensor | None, last: Tensor | None) -> Tensor:
    """Scores [B, T, S] fp32, -inf outside the ranges [first, last) [B, T]."""
    if launch.runs(query, key, weights):
        from kernels.lightning_indexer import scores

        return scores.forward(query, key, weights, first, last)
    found = reference.index_scores(query, key, weights)
    if first is None or last is None:
        return found
    return found.masked_fill(~reference.visible(first, last, key.shape[1]), -torch.inf)


@torch.library.custom_op("longhaul::index_scores_backward", mutates_args=())
def index_scores_backward(
    query: Tensor, key: Tensor, weights: Tensor, slope: Tensor, first: Tensor | None, last: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and weights, where slope [B, T, S] is that of the scores."""
    if launch.runs(query, key, weights, slope):
        from kernels.lightning_indexer import scores

        return scores.backward(query, key, weights, slope, first, last)
    if first is not None and last is not None:
        slope = slope.masked_fill(~reference.visible(first, last, key.shape[1]), 0.0)
    return reference.index_scores_gradients(query, key, weights, slope)


@torch.library.custom_op("longhaul::attention_lse", mutates_args=())
def attention_lse(query: Tensor, latent: Tensor, first: Tensor, last: Tensor, scale: float) -> Tensor:
    """Logarithms of the softmax sums over the visible keys, [B, R, Ha] fp32."""
    if launch.runs(query, latent):
        from kernels.lightning_indexer import teacher

        return teacher.attention_lse(query, latent, first, last, scale)
    return reference.attention_lse(query, latent, first, last, scale)


@torch.library.custom_op("longhaul::indexer_loss_visible", mutates_args=())
def indexer_loss_visible(
    index_query: Tensor, index_key: Tensor, index_weights: Tensor, query: Tensor, latent: Tensor, lse: Tensor,
    first: Tensor, last: Tensor, scale: float, learns: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """(loss, its gradients of the three index inputs); empty gradients where nothing learns."""
    index, attention = (index_query, index_key, index_weights), (query, latent, lse)
    if launch.runs(*index, *attention):
        from kernels.lightning_indexer import teacher

        return _padded(teacher.dense_loss(index, attention, first, last, scale, learns), index)
    seen = reference.visible(first, last, latent.shape[1])
    scores = reference.index_scores(*index).masked_fill(~seen, -torch.inf)
    loss, slope = reference.divergence(scores, reference.teacher(*attention, scale))
    return _padded((loss, *reference.index_scores_gradients(*index, slope)) if learns else (loss,), index)


@torch.library.custom_op("longhaul::indexer_loss_listed", mutates_args=())
def indexer_loss_listed(
    index_query: Tensor, index_key: Tensor, index_weights: Tensor, query: Tensor, latent: Tensor, lse: Tensor,
    listed: Tensor, scale: float, learns: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The same over the keys listed for each query, [B, R, K] int32 padded with -1."""
    index, attention = (index_query, index_key, index_weights), (query, latent, lse)
    if launch.runs(*index, *attention, listed):
        from kernels.lightning_indexer import listed as kernels

        return _padded(kernels.listed_loss(index, attention, listed, scale, learns), index)
    scores = reference.index_scores(*index)
    some = reference.gathered(scores, listed).masked_fill(listed < 0, -torch.inf)
    wanted = reference.gathered(reference.teacher(*attention, scale), listed)
    loss, slope = reference.divergence(some, wanted)
    slope = torch.zeros_like(scores).scatter_add_(-1, listed.clamp(min=0).long(), slope)
    return _padded((loss, *reference.index_scores_gradients(*index, slope)) if learns else (loss,), index)


def _padded(found: tuple[Tensor, ...], index: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    loss, *grads = found
    query, key, weights = grads or [x.new_empty(0) for x in index]
    return loss, query, key, weights


@index_scores.register_fake
def _(query: Tensor, key: Tensor, weights: Tensor, first: Tensor | None, last: Tensor | None) -> Tensor:
    return query.new_empty(*query.shape[:2], key.shape[1], dtype=torch.float32)


@attention_lse.register_fake
def _(query: Tensor, latent: Tensor, first: Tensor, last: Tensor, scale: float) -> Tensor:
    return query.new_empty(query.shape[:3], dtype=torch.float32)


@index_scores_backward.register_fake
def _(
    query: Tensor, key: Tensor, weights: Tensor, slope: Tensor, first: Tensor | None, last: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), weights.new_empty(weights.shape)


def _fake_loss(*inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    index, learns = inputs[:3], inputs[-1]
    grads = [x.new_empty(x.shape) for x in index] if learns else []
    return _padded((index[0].new_empty((), dtype=torch.float32), *grads), index)


indexer_loss_visible.register_fake(_fake_loss)
indexer_loss_listed.register_fake(_fake_loss)


def _setup_scores(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward_scores(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
    query, key, weights, first, last = ctx.saved_tensors
    return *index_scores_backward(query, key, weights, slope.contiguous(), first, last), None, None


def _setup_loss(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.others = len(inputs) - 3


def _backward_loss(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    return *(x * grad.to(x.dtype) for x in ctx.saved_tensors), *[None] * ctx.others


index_scores.register_autograd(_backward_scores, setup_context=_setup_scores)
indexer_loss_visible.register_autograd(_backward_loss, setup_context=_setup_loss)
indexer_loss_listed.register_autograd(_backward_loss, setup_context=_setup_loss)
