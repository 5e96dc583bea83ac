"""How far a result is from its float64 reference."""

import torch
from torch import Tensor


def relative_error(found: Tensor, wanted: Tensor, floor: float = 1e-30) -> float:
    """|found - wanted| / |wanted| in the Euclidean norm; infinite where found is not finite.

    floor: the size of the terms whose sum `wanted` is, where they may cancel to nothing.
    """
    found, wanted = found.double(), wanted.double()
    if not torch.isfinite(found).all():
        return float("inf")
    return float((found - wanted).norm() / wanted.norm().clamp(min=floor))
