"""Cross-entropy of a linear layer by its formula, with every logit kept: what the other implementations must equal."""

import torch
from torch import Tensor


def losses(hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int, z_loss: float) -> tuple[Tensor, Tensor]:
    """(lse - logits[target] + z_loss * lse^2 [N], 0 at ignored targets; lse = logsumexp(logits) [N]), at least fp32."""
    logits = hidden @ weight.t()
    logits = logits if logits.dtype == torch.float64 else logits.float()
    lse, ignored = logits.logsumexp(-1), targets == ignore_index
    chosen = logits.gather(1, torch.where(ignored, 0, targets)[:, None]).squeeze(1)
    return torch.where(ignored, 0.0, lse - chosen + z_loss * lse.square()), lse


def gradients(
    hidden: Tensor, weight: Tensor, targets: Tensor, grads: Tensor, ignore_index: int, z_loss: float
) -> tuple[Tensor, Tensor]:
    """Gradients of hidden and weight where grads [N] are those of the losses."""
    with torch.enable_grad():
        inputs = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
        found, _ = losses(*inputs, targets, ignore_index, z_loss)
        for_hidden, for_weight = torch.autograd.grad(found, inputs, grads)
    return for_hidden, for_weight
