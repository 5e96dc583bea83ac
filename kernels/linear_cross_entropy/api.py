"""Cross-entropy of a linear output layer, as one operation (the idea of Liger Kernel, arXiv 2410.10989)."""

from torch import Tensor

from kernels.linear_cross_entropy import bfloat16, reference
from kernels.precision import exact, rounds


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Negative log-probability of each target in nats, [N] fp32.

    hidden [N, D], weight [V, D], targets [N] int64 in [0, V). Under autocast to bfloat16 the products' operands are
    rounded. Raises ValueError when the sizes do not match.
    """
    if hidden.shape[-1] != weight.shape[-1] or hidden.shape[:1] != targets.shape:
        raise ValueError(
            f"linear_cross_entropy got hidden {tuple(hidden.shape)}, weight {tuple(weight.shape)} and targets "
            f"{tuple(targets.shape)}, but needs [N, D], [V, D] and [N]."
        )
    chosen = bfloat16 if rounds(hidden) else reference
    with exact(hidden):
        return chosen.linear_cross_entropy(hidden, weight, targets)
