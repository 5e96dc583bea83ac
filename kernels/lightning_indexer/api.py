"""Index scores of DeepSeek Sparse Attention and the loss they learn from (DeepSeek-V3.2, section 2.1)."""

import torch
from torch import Tensor

from kernels import launch
from kernels.lightning_indexer import operator, reference
from kernels.precision import exact


def index_scores(
    query: Tensor, key: Tensor, weights: Tensor, first: Tensor | None = None, last: Tensor | None = None
) -> Tensor:
    """How much query token t wants key token s: [B, T, S] fp32, -inf outside [first, last) where ranges are given.

    query [B, T, H, D], key [B, S, D] (one key head), weights [B, T, H] (already multiplied by H^-1/2), first and last
    [B, T] integers. Autocast rounds nothing here.
    Raises ValueError when the shapes do not belong together.
    """
    _require_index(query, key, weights, "index_scores")
    if (first is None) != (last is None):
        raise ValueError("index_scores got one end of the ranges of keys, but needs both or neither.")
    if first is not None and last is not None:
        _require_ranges(query, first, last, "index_scores")
    with exact(query):
        if _on_gpu(query) or first is not None:
            return operator.index_scores(query, key, weights, first, last)  # type: ignore[no-any-return]
        return reference.index_scores(query, key, weights)


def index_scores_gradients(query: Tensor, key: Tensor, weights: Tensor, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `index_scores` with respect to query, key and weights; slope [B, T, S] is that of the scores.

    For losses that are differentiated block by block, so that no [B, T, S] buffer outlives its block.
    """
    if slope.shape != (*query.shape[:2], key.shape[1]):
        raise ValueError(
            f"index_scores_gradients got a slope of shape {tuple(slope.shape)} for queries {tuple(query.shape)} and "
            f"keys {tuple(key.shape)}."
        )
    with exact(query):
        if _on_gpu(query):
            return operator.index_scores_backward(query, key, weights, slope, None, None)  # type: ignore[no-any-return]
        return reference.index_scores_gradients(query, key, weights, slope)


def indexer_loss_visible(
    index: tuple[Tensor, Tensor, Tensor], attention: tuple[Tensor, Tensor, Tensor], first: Tensor, last: Tensor,
    scale: float,
) -> Tensor:  # fmt: skip
    """Mean over query rows of KL(attention || softmax(index scores)) over the visible keys, a scalar (the warm-up).

    index: query [B, R, H, D], key [B, S, D] and weights [B, R, H], which receive gradients; attention, which receives
    none: query [B, R, Ha, Dqk] and latent [B, S, Dqk] of the multi-query form, and lse [B, R, Ha], the natural
    logarithm of the sum of exp(scale * q . k) over the same keys [first, last), both [B, R]. The teacher is the mean
    of the heads' attention. On a GPU D is a power of two, Dqk the sum of two (16 at least). The gradients are made
    with the loss, for a bounded number of rows at a time. Raises ValueError when shapes do not belong together.
    """
    _require_teacher(index, attention, "indexer_loss_visible")
    _require_ranges(index[0], first, last, "indexer_loss_visible")
    loss, *_ = operator.indexer_loss_visible(
        *index, *(x.detach() for x in attention), first, last, scale, _learn(index)
    )
    return loss


def indexer_loss_listed(
    index: tuple[Tensor, Tensor, Tensor], attention: tuple[Tensor, Tensor, Tensor], listed: Tensor, scale: float
) -> Tensor:
    """The same over the keys listed for each query: listed [B, R, K] int32, each at most once, padded with -1.

    lse is then the logarithm of the sum over the listed keys, as `sparse_mla` returns it.
    """
    _require_teacher(index, attention, "indexer_loss_listed")
    if listed.shape[:2] != index[0].shape[:2] or listed.ndim != 3 or listed.dtype != torch.int32:
        raise ValueError(
            f"indexer_loss_listed got a list of shape {tuple(listed.shape)} and {listed.dtype} for queries "
            f"{tuple(index[0].shape)}, but needs [B, R, K] of int32."
        )
    loss, *_ = operator.indexer_loss_listed(*index, *(x.detach() for x in attention), listed, scale, _learn(index))
    return loss


@torch.no_grad()
def attention_lse(query: Tensor, latent: Tensor, first: Tensor, last: Tensor, scale: float) -> Tensor:
    """log sum exp(scale * q . k) over the keys [first, last) of each query: [B, R, Ha] fp32, no gradient.

    query [B, R, Ha, D], latent [B, S, D], first and last [B, R]. -inf where a query sees no key.
    Raises ValueError when shapes do not belong together.
    """
    _require_ranges(query, first, last, "attention_lse")
    if query.shape[0] != latent.shape[0] or query.shape[-1] != latent.shape[-1]:
        raise ValueError(
            f"attention_lse got query {tuple(query.shape)} and latent {tuple(latent.shape)}, but needs [B, R, Ha, D] "
            "and [B, S, D]."
        )
    return operator.attention_lse(query, latent, first, last, scale)  # type: ignore[no-any-return]


def _on_gpu(query: Tensor) -> bool:
    return launch.on_gpu(query) and launch.tiles(query.shape[-1])


def _learn(index: tuple[Tensor, Tensor, Tensor]) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in index)


def _require_index(query: Tensor, key: Tensor, weights: Tensor, name: str) -> None:
    if query.shape[:3] != weights.shape or query.shape[-1] != key.shape[-1] or query.shape[0] != key.shape[0]:
        raise ValueError(
            f"{name} got query {tuple(query.shape)}, key {tuple(key.shape)} and weights {tuple(weights.shape)}, "
            "but needs [B, T, H, D], [B, S, D] and [B, T, H]."
        )


def _require_ranges(query: Tensor, first: Tensor, last: Tensor, name: str) -> None:
    if first.shape != query.shape[:2] or last.shape != first.shape:
        raise ValueError(
            f"{name} got queries {tuple(query.shape)} but ranges {tuple(first.shape)} and {tuple(last.shape)}."
        )


def _require_teacher(index: tuple[Tensor, Tensor, Tensor], attention: tuple[Tensor, Tensor, Tensor], name: str) -> None:
    _require_index(*index, name)
    query, latent, lse = attention
    same = query.shape[:2] == index[0].shape[:2] and latent.shape[:2] == index[1].shape[:2]
    if not same or query.shape[:3] != lse.shape or query.shape[-1] != latent.shape[-1]:
        raise ValueError(
            f"{name} got attention queries {tuple(query.shape)}, latent {tuple(latent.shape)} and lse "
            f"{tuple(lse.shape)} for index queries {tuple(index[0].shape)} and keys {tuple(index[1].shape)}, but needs "
            "[B, R, Ha, Dqk], [B, S, Dqk] and [B, R, Ha]."
        )
