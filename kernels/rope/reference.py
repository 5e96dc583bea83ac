"""Rotary position embedding in plain PyTorch: a pair of neighbouring dimensions is one complex number."""

import torch
from torch import Tensor


def rope_table(positions: Tensor, dim: int, theta: float) -> Tensor:
    """exp(i * position * theta^(-2j/dim)) for j < dim/2: [..., dim/2] complex64."""
    exponents = torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32) / dim
    angles = positions[..., None].float() / theta**exponents
    return torch.polar(torch.ones_like(angles), angles)


def apply_rope(x: Tensor, table: Tensor) -> Tensor:
    """Rotates x [..., dim] by table (broadcastable to [..., dim/2])."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * table).flatten(-2).to(x.dtype)
