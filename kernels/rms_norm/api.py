"""Root-mean-square normalisation (Zhang and Sennrich, arXiv 1910.07467)."""

from torch import Tensor

from kernels import launch
from kernels.rms_norm import cpu, operator, reference

WIDEST = 8192  # elements of a row that the registers of one program of the GPU's kernels hold


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalises the last dimension of x [..., D] and scales it by weight [D]; raises ValueError on a size mismatch."""
    if x.shape[-1:] != weight.shape:
        raise ValueError(f"rms_norm got x of shape {tuple(x.shape)} but a weight of shape {tuple(weight.shape)}.")
    if launch.on_gpu(x) and x.shape[-1] <= WIDEST:
        out, _ = operator.rms_norm(x, weight, eps)
        return out
    chosen = cpu if cpu.available(x, weight) else reference
    return chosen.rms_norm(x, weight, eps)
