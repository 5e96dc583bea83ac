"""SwiGLU experts over tokens that each chose their own few (no token is dropped)."""

from torch import Tensor

from kernels import launch
from kernels.grouped_experts import bfloat16, operator, reference
from kernels.precision import exact, rounds


def grouped_experts(x: Tensor, experts: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """sum_j weights[n,j] * expert[experts[n,j]](x[n]): [N, D].

    x [N, D], experts [N, k] int64 in [0, E), weights [N, k], gate_up [E, 2F, D] (gate rows first), down [E, D, F].
    Under autocast to bfloat16 the products' operands are rounded. Raises ValueError when the sizes do not match.
    """
    if x.shape[-1] != gate_up.shape[-1] or experts.shape != weights.shape or experts.shape[:1] != x.shape[:1]:
        raise ValueError(
            f"grouped_experts got x {tuple(x.shape)}, experts {tuple(experts.shape)}, weights {tuple(weights.shape)} "
            f"and gate_up {tuple(gate_up.shape)}, which do not belong together."
        )
    if launch.on_gpu(x) and _is_aligned(gate_up) and _is_aligned(down):
        return _on_gpu(x, experts, weights, gate_up, down)
    chosen = bfloat16 if rounds(x) else reference
    with exact(x):
        return chosen.grouped_experts(x, experts, weights.to(x.dtype), gate_up, down)


def _on_gpu(x: Tensor, experts: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Under autocast to bfloat16 the operands are rounded outside the operator, which makes the gradients fit."""
    dtype = x.dtype
    if rounds(x):
        x, gate_up, down = x.bfloat16(), gate_up.bfloat16(), down.bfloat16()
    with exact(x):
        out, *_ = operator.grouped_experts(x, experts, weights, gate_up, down)
    return out.to(dtype)


def _is_aligned(matrices: Tensor) -> bool:
    """Whether every row begins at a multiple of 16 bytes, as grouped products need it."""
    return bool(matrices.shape[2] * matrices.element_size() % 16 == 0)
