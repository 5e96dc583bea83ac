"""Cross-entropy of a linear output layer, as one operation (the idea of Liger Kernel, arXiv 2410.10989)."""

import torch
from torch import Tensor

from kernels import launch
from kernels.linear_cross_entropy import bfloat16, formula, operator, reference
from kernels.precision import exact, rounds


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int = -100, z_loss: float = 0.0
) -> Tensor:
    """Negative log-probability of each target in nats, [N] fp32; 0, and no gradient, where it is `ignore_index`.

    hidden [N, D], weight [V, D], targets [N] int64 in [0, V) or `ignore_index`. z_loss adds z_loss * logsumexp^2
    (PaLM, arXiv 2204.02311, section 5). Under autocast to bfloat16 the products' operands are rounded. On a GPU no
    logits are kept. Raises ValueError when the sizes do not match.
    """
    _check("linear_cross_entropy", hidden, weight, targets, targets)
    if launch.on_gpu(hidden):
        with exact(hidden):
            losses, _ = operator.linear_cross_entropy(*_rounded(hidden, weight), targets, ignore_index, z_loss)
        return losses
    if z_loss:
        return formula.losses(hidden, weight, targets, ignore_index, z_loss)[0]
    ignored, chosen = targets == ignore_index, bfloat16 if rounds(hidden) else reference
    with exact(hidden):
        losses = chosen.linear_cross_entropy(hidden, weight, torch.where(ignored, 0, targets))
    return losses.masked_fill(ignored, 0.0)


def weighted_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, ignore_index: int = -100, z_loss: float = 0.0
) -> Tensor:
    """The scalar sum(weights * linear_cross_entropy(...)), weights [N] fp32.

    On a GPU the gradients are made in the forward pass, from the same logits as the losses. Raises ValueError when the
    sizes do not match.
    """
    _check("weighted_cross_entropy", hidden, weight, targets, weights)
    if launch.on_gpu(hidden) and torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        with exact(hidden):
            inputs = (*_rounded(hidden, weight), targets, weights)
            total, *_ = operator.weighted_cross_entropy(*inputs, ignore_index, z_loss)
        return total
    return (linear_cross_entropy(hidden, weight, targets, ignore_index, z_loss) * weights).sum()


def _rounded(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """What the products take: under autocast to bfloat16 both rounded."""
    return (hidden.bfloat16(), weight.bfloat16()) if rounds(weight) else (hidden, weight)


def _check(name: str, hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor) -> None:
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"{name} got hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)}, but needs [N, D] and [V, D]."
        )
    if hidden.dtype != weight.dtype and not rounds(weight):
        raise ValueError(
            f"{name} got hidden of {hidden.dtype} and weight of {weight.dtype}, but needs one type without autocast."
        )
    if not hidden.shape[:1] == targets.shape == weights.shape:
        raise ValueError(
            f"{name} got hidden {tuple(hidden.shape)}, targets {tuple(targets.shape)} and weights "
            f"{tuple(weights.shape)}, but needs one target and one weight a row."
        )
