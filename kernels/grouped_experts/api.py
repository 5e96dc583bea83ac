"""SwiGLU experts over tokens that each chose their own few (no token is dropped, nothing is padded)."""

from torch import Tensor

from kernels import launch
from kernels.grouped_experts import operator, reference


def grouped_experts(x: Tensor, experts: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """sum_j weights[n,j] * expert[experts[n,j]](x[n]): [N, D].

    x [N, D], experts [N, k] int64 in [0, E), weights [N, k], gate_up [E, 2F, D] (gate rows first), down [E, D, F].
    Raises ValueError when the sizes do not match.
    """
    if x.shape[-1] != gate_up.shape[-1] or experts.shape != weights.shape or experts.shape[:1] != x.shape[:1]:
        raise ValueError(
            f"grouped_experts got x {tuple(x.shape)}, experts {tuple(experts.shape)}, weights {tuple(weights.shape)} "
            f"and gate_up {tuple(gate_up.shape)}, which do not belong together."
        )
    if launch.on_gpu(x) and _is_aligned(gate_up) and _is_aligned(down):
        out, *_ = operator.grouped_experts(x, experts, weights, gate_up, down)
        return out
    return reference.grouped_experts(x, experts, weights.to(x.dtype), gate_up, down)


def _is_aligned(matrices: Tensor) -> bool:
    """Whether every row begins at a multiple of 16 bytes, as grouped products need it."""
    return bool(matrices.shape[2] * matrices.element_size() % 16 == 0)
