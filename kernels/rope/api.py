"""Interleaved rotary position embedding (Su et al., arXiv 2104.09864): dimensions 2j and 2j+1 rotate together."""

from torch import Tensor

from kernels import launch
from kernels.rope import operator, reference


def rope_table(positions: Tensor, dim: int, theta: float) -> Tensor:
    """The rotations of `positions` [...] (token positions in their document): [..., dim/2] complex64."""
    if dim % 2:
        raise ValueError(f"rope_table needs an even dimension, but got {dim}.")
    return reference.rope_table(positions, dim, theta)


def apply_rope(x: Tensor, table: Tensor) -> Tensor:
    """Rotates every dimension of x [..., dim] by table [..., dim/2], computed in fp32, returned in x's dtype."""
    if x.shape[-1] != 2 * table.shape[-1]:
        raise ValueError(f"apply_rope got {x.shape[-1]} dimensions but a table for {2 * table.shape[-1]}.")
    if launch.on_gpu(x):
        out: Tensor = operator.rotate(x, table, False)
        return out
    return reference.apply_rope(x, table)
