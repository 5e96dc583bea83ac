"""Deterministic top-k selection in plain PyTorch."""

import torch
from torch import Tensor


def topk_mask(scores: Tensor, k: int) -> Tensor:
    """True at the k largest scores of each row; equal scores go to the lower index; -inf is never selected."""
    if k >= scores.shape[-1]:
        return scores > -torch.inf
    threshold = torch.topk(scores, k, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    mask = scores >= threshold
    _drop_late_ties(mask, scores, threshold, k)
    return mask.logical_and_(scores > -torch.inf)


def _drop_late_ties(mask: Tensor, scores: Tensor, threshold: Tensor, k: int) -> None:
    """Where more than k entries reach the threshold, keep only the first of those that equal it. In place."""
    crowded = (mask.sum(-1) > k) & (threshold.squeeze(-1) > -torch.inf)
    if not crowded.any():
        return
    rows, limits = scores[crowded], threshold[crowded]
    above, tied = rows > limits, rows == limits
    room = k - above.sum(-1, keepdim=True)
    mask[crowded] = above | (tied & (tied.cumsum(-1) <= room))


def topk_indices(scores: Tensor, k: int) -> Tensor:
    """The same selection as ascending indices [..., min(k, S)] int64, -1 where fewer than k were selectable."""
    mask = topk_mask(scores, k)
    size = scores.shape[-1]
    order = torch.where(mask, torch.arange(size, device=scores.device), size)
    chosen = order.sort(-1).values[..., : min(k, size)]
    return chosen.masked_fill(chosen == size, -1)


def select_keys(scores: Tensor, first: Tensor, last: Tensor, k: int) -> Tensor:
    """Indices [..., k] int32 of the k best keys in [first, last) of each row, ascending, padded with -1."""
    key = torch.arange(scores.shape[-1], device=scores.device)
    visible = (key >= first.unsqueeze(-1)) & (key < last.unsqueeze(-1))
    chosen = topk_indices(scores.masked_fill(~visible, -torch.inf), k)
    padding = k - chosen.shape[-1]
    return torch.nn.functional.pad(chosen, (0, max(padding, 0)), value=-1).int()
