"""What stands between the experts' matrix products, in plain PyTorch: SwiGLU scaled by the router's weight."""

import torch
import torch.nn.functional as F
from torch import Tensor


def weighted_swiglu(wide: Tensor, weights: Tensor) -> Tensor:
    """weights[m] * silu(gate) * up: [M, F]; wide [M, 2F] holds gate and up side by side, weights [M]."""
    gate, up = wide.chunk(2, dim=1)
    return F.silu(gate) * up * weights[:, None].to(wide.dtype)


def weighted_swiglu_gradients(wide: Tensor, weights: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(gradient of wide [M, 2F], weighted_swiglu(wide, weights), gradient of weights [M]); grad [M, F]."""
    gate, up = wide.chunk(2, dim=1)
    sigmoid, scale = gate.sigmoid(), weights[:, None].to(wide.dtype)
    silu = gate * sigmoid
    pull = grad * scale
    for_gate = pull * up * (sigmoid + silu * (1 - sigmoid))
    return torch.cat([for_gate, pull * silu], 1), silu * up * scale, (grad * silu * up).sum(1).to(weights.dtype)


def clear_empty(grad: Tensor, ends: Tensor) -> None:
    """Writes zeros to grad[e] [E, A, B] where expert e has no row; ends [E] int32."""
    empty = ends == torch.cat([ends.new_zeros(1), ends[:-1]])
    grad.masked_fill_(empty[:, None, None], 0.0)
