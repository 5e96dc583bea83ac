"""A linear layer without bias."""

from torch import Tensor

from kernels.linear import bfloat16, reference
from kernels.precision import rounds


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., D] times weight [N, D] transposed: [..., N]; raises ValueError on a size mismatch.

    Under autocast to bfloat16 a CPU returns fp32, as `bfloat16` describes; other devices do what torch does.
    """
    if x.shape[-1] != weight.shape[-1]:
        raise ValueError(f"linear got x of shape {tuple(x.shape)} but a weight of shape {tuple(weight.shape)}.")
    chosen = bfloat16 if x.device.type == "cpu" and rounds(x) else reference
    return chosen.linear(x, weight)
