"""What this chip really does: the rate of a large matrix product, and of a large copy."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.bench.clock import time_call
from kernels.bench.entry import Place


@dataclass(frozen=True)
class Ceilings:
    """TFLOPS of a square matrix product and GB/s of a copy (bytes read and written)."""

    tflops: float
    gbps: float


def measure(place: Place, size: int, seconds: float) -> Ceilings:
    """size: rows and columns of the matrices, 8192 on a GPU; the copy has as many bytes as sixteen such matrices."""
    left, right = place.randn(size, size), place.randn(size, size)
    product = time_call(lambda: left @ right, place.device, seconds)
    source = torch.zeros(16 * size * size, dtype=place.dtype, device=place.device)
    target = torch.empty_like(source)
    copy = time_call(lambda: target.copy_(source), place.device, seconds)
    moved = 2 * source.numel() * source.element_size()
    return Ceilings(2 * size**3 / product.median / 1e9, moved / copy.median / 1e6)
