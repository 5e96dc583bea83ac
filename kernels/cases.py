"""What the ahead-of-time gate compiles: a kernel with the types of its arguments and the settings of its launch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SM80, SM90, SM100 = 80, 90, 100  # generations of chips: Ampere, Hopper, Blackwell
Settings = Mapping[str, Any]  # constants of a kernel, and num_warps and num_stages, by name


def for_chip(common: Settings, on_chip: Mapping[int, Settings], chip: int) -> dict[str, Any]:
    """`common`, but for what `on_chip` says of this chip."""
    return {**common, **on_chip.get(chip, {})}


@dataclass(frozen=True)
class Case:
    """One specialisation of a Triton kernel, as its launcher would ask for it.

    arguments: Triton type by argument name ("*bf16" a pointer, aligned to 16 bytes; "i32", "fp32" a scalar).
    common: value by name of every `tl.constexpr`, and `num_warps` and `num_stages` where the launcher gives them.
    on_chip: what a chip takes otherwise. matrix: whether its products must become wgmma on sm_90.
    """

    name: str
    kernel: Any
    arguments: Mapping[str, str]
    common: Settings
    on_chip: Mapping[int, Settings] = field(default_factory=dict)
    matrix: bool = False
    targets: tuple[int, ...] = (SM80, SM90, SM100)

    def settings(self, target: int) -> dict[str, Any]:
        """Constants and options of a launch on this chip."""
        return for_chip(self.common, self.on_chip, target)
