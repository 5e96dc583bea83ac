"""What an operation gives the benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Shape = Mapping[str, int]
Inputs = tuple[Any, ...]


@dataclass(frozen=True)
class Place:
    """Where tensors are made, and of which type: bf16 on a GPU, fp32 for the interpreter."""

    device: str
    dtype: torch.dtype

    def randn(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Normal values."""
        return torch.randn(*shape, device=self.device, dtype=self.dtype) * scale

    def integers(self, below: int, *shape: int) -> Tensor:
        """Whole numbers in [0, below)."""
        return torch.randint(below, shape, device=self.device)

    def distinct(self, rows: int, count: int, below: int) -> Tensor:
        """[rows, count] int32: in each row `count` different numbers below `below`, in no order."""
        return torch.stack([torch.randperm(below, device=self.device)[:count] for _ in range(rows)]).int()


@dataclass(frozen=True)
class Candidate:
    """One way to compute it. make: its own inputs, where the kernel's do not fit; missing: why it cannot run."""

    name: str
    run: Callable[..., Any]
    make: Callable[[Place, Shape], Inputs] | None = None
    missing: str = ""


@dataclass(frozen=True)
class Sweep:
    """Tilings to try: `module.kernel` launched with each of `options` instead of what its launcher gives."""

    module: str
    kernel: str
    options: Sequence[Mapping[str, int]]


def no_bytes(_: Shape) -> float:
    """For an operation that is measured in operations."""
    return 0.0


def as_found(_: Inputs, found: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The outputs themselves are compared."""
    return found


@dataclass(frozen=True)
class Entry:
    """One operation.

    make: the inputs at a shape. kernel: what is measured, returning a tuple of tensors. plain: the same in plain
    PyTorch, in the inputs' type: in double precision it is the reference. view: what of the outputs is compared.
    flops and bytes: what rates are given in (0: not given). shapes are measured; the kernel is checked at `check`;
    `tiny` is for the interpreter. missing: why the operation is not there, "" where it is.
    """

    name: str
    make: Callable[[Place, Shape], Inputs]
    kernel: Callable[..., tuple[Tensor, ...]]
    plain: Callable[..., tuple[Tensor, ...]]
    shapes: Sequence[Shape]
    check: Shape
    tiny: Shape
    flops: Callable[[Shape], float]
    bytes: Callable[[Shape], float] = no_bytes
    baselines: Sequence[Candidate] = ()
    view: Callable[[Inputs, tuple[Tensor, ...]], tuple[Tensor, ...]] = as_found
    missing: Callable[[], str] = field(default=lambda: "")
    sweeps: Sequence[Sweep] = ()
