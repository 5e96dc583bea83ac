"""What the ahead-of-time gate compiles: a kernel with the types of its arguments and its constants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SM80, SM90, SM100 = 80, 90, 100


@dataclass(frozen=True)
class Case:
    """One specialisation of a Triton kernel, as its launcher would ask for it.

    arguments: Triton type by argument name ("*bf16" a pointer, aligned to 16 bytes; "i32", "fp32" a scalar).
    constants: value by name of every `tl.constexpr`. matrix: whether its products must become wgmma on sm_90.
    """

    name: str
    kernel: Any
    arguments: Mapping[str, str]
    constants: Mapping[str, Any]
    warps: int = 4
    stages: int = 2
    matrix: bool = False
    targets: tuple[int, ...] = (SM80, SM90, SM100)
