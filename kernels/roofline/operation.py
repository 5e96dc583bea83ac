"""An operation as the launches that make it up, and the time each resource of a chip needs for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kernels.roofline.chip import Chip, Product

RESOURCES = ("tensor cores", "shared memory", "memory", "L2", "special functions", "CUDA cores", "atomics")


@dataclass(frozen=True)
class Launch:
    """All programs of one launch together.

    products: those of one step; steps: how many there are; memory and l2: bytes from or to each; special:
    exponentials; lanes: fp32 instructions; additions: atomic ones, fp32; programs: how many, one a multiprocessor at
    a time (0: enough to fill the chip). overlaps: whether softmax and other fp32 work runs beside the products; in a
    kernel whose only warps wait for their own products it does not.
    """

    name: str
    products: Sequence[Product] = ()
    steps: float = 0
    memory: float = 0
    l2: float = 0
    special: float = 0
    lanes: float = 0
    additions: float = 0
    programs: int = 0
    overlaps: bool = False

    @property
    def flops(self) -> float:
        """Of the products as executed, with whatever is computed again."""
        return self.steps * sum(p.flops for p in self.products)

    def seconds(self, chip: Chip) -> dict[str, float]:
        """What each resource would need were it alone, in the order of RESOURCES."""
        operands = self.steps * sum(p.shared_bytes for p in self.products)
        needs = (
            self.flops / chip.on_chip(chip.tensor_cycle),
            operands / chip.on_chip(chip.shared_cycle),
            self.memory / chip.copy,
            self.l2 / chip.l2,
            self.special / chip.on_chip(chip.special_cycle),
            self.lanes / chip.on_chip(chip.lanes_cycle),
            self.additions / (chip.additions_cycle * chip.clock),
        )
        return dict(zip(RESOURCES, needs, strict=True))

    def limits(self, chip: Chip) -> dict[str, float]:
        """Seconds by what could bound this tiling: the work inside a multiprocessor, and each resource outside it."""
        need = self.seconds(chip)
        products = self.steps * sum(p.cycles(chip) for p in self.products) / (chip.multiprocessors * chip.clock)
        slower = max(RESOURCES[:2], key=need.__getitem__)
        rest = {name: need[name] for name in ("special functions", "CUDA cores")}
        inside = {slower: products, **rest}
        if products and any(rest.values()) and not self.overlaps:
            inside = {f"{slower}, softmax": products + sum(rest.values())}
        inside = {name: seconds * self._waves(chip) for name, seconds in inside.items()}
        return inside | {name: need[name] for name in ("memory", "L2", "atomics")}

    def reach(self, chip: Chip) -> float:
        """The time in seconds that this tiling cannot beat."""
        return max(self.limits(chip).values())

    def _waves(self, chip: Chip) -> float:
        """How much longer it takes because the last programs leave multiprocessors idle."""
        waves = -(-self.programs // chip.multiprocessors)
        return waves * chip.multiprocessors / self.programs if self.programs else 1.0


@dataclass(frozen=True)
class Operation:
    """flops: what the operation is counted as, by the formula its field uses; bytes: what must cross the memory bus."""

    name: str
    shape: str
    flops: float
    bytes: float
    launches: Sequence[Launch]

    def floor(self, tensor: float, memory: float) -> float:
        """Seconds at these rates, were nothing but the counted operations and bytes in the way."""
        return max(self.flops / tensor, self.bytes / memory)

    def reach(self, chip: Chip) -> float:
        """Seconds that the chosen tiling cannot beat."""
        return sum(launch.reach(chip) for launch in self.launches)

    def bound(self, chip: Chip) -> str:
        """What bounds the longest launch."""
        limits = max(self.launches, key=lambda launch: launch.reach(chip)).limits(chip)
        return max(limits, key=limits.__getitem__)

    def share(self, chip: Chip) -> float:
        """What the tiling can reach of the nominal peak: of compute or of memory, whichever sets the nominal floor."""
        return self.floor(chip.tensor, chip.memory) / self.reach(chip)
