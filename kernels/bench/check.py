"""Whether a kernel is right: its error next to that of plain PyTorch in the same type.

Both are taken against plain PyTorch in double precision (the way flash-linear-attention checks its kernels), so that
the bar is what the type can do, not a constant.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.bench.entry import Entry, Inputs, Place, Shape

FLOOR = {torch.bfloat16: 4e-3, torch.float32: 1e-5}  # half a unit of bf16's last place, and rounding in fp32


@dataclass(frozen=True)
class Verdict:
    """Relative errors in the Euclidean norm, the largest over the outputs; `passed` where the kernel's is no worse."""

    kernel: float
    plain: float
    passed: bool


def check(entry: Entry, place: Place, shape: Shape) -> Verdict:
    """Runs kernel and plain PyTorch once; a kernel passes with twice the error of plain PyTorch, or the type's own."""
    inputs = entry.make(place, shape)
    wide = tuple(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs)
    wanted = entry.view(wide, entry.plain(*wide))
    kernel, plain = (_error(entry, wide, run(*inputs), wanted) for run in (entry.kernel, entry.plain))
    return Verdict(kernel, plain, kernel <= max(2 * plain, FLOOR[place.dtype]))


def _error(entry: Entry, wide: Inputs, found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> float:
    pairs = zip(entry.view(wide, found), wanted, strict=True)
    return max(relative_error(f, w) for f, w in pairs)


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """|found - wanted| / |wanted|; infinite where found is not finite and wanted is, or differs in its infinities."""
    found, wanted = found.double(), wanted.double()
    finite = torch.isfinite(wanted)
    if not torch.equal(finite, torch.isfinite(found)) or not torch.equal(found[~finite], wanted[~finite]):
        return float("inf")
    return float((found[finite] - wanted[finite]).norm() / wanted[finite].norm().clamp(min=1e-30))
