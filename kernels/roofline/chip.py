"""A Hopper chip as rates, and a product of tiles on it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """What an H200 (SXM) does in a second or a cycle.

    Per multiprocessor and cycle, after NVIDIA's Hopper white paper and the tables of the CUDA C++ Programming Guide:
    4096 dense bf16 operations (a multiply-add is two), 128 bytes of shared memory, 16 exponentials (4 a quadrant), 128
    fp32 instructions. `tensor` and `memory` are the data sheet's; `matmul` and `copy` were measured on an H200 with
    8192^3 bf16 matmuls (770-800 TFLOPS) and large copies. `l2` and `additions` are assumed, not measured: what
    microbenchmarks of an H100's L2 report, and eight fp32 atomic additions (32 bytes) a cycle in each of 48 slices.
    """

    multiprocessors: int = 132
    clock: float = 1.755e9
    tensor: float = 990e12
    memory: float = 4.8e12
    matmul: float = 785e12
    copy: float = 4.3e12
    l2: float = 5.5e12
    tensor_cycle: int = 4096
    shared_cycle: int = 128
    special_cycle: int = 16
    lanes_cycle: int = 128
    additions_cycle: int = 48 * 8

    def on_chip(self, per_cycle: int) -> float:
        """A rate per multiprocessor and cycle as one per second of the whole chip."""
        return per_cycle * self.multiprocessors * self.clock


@dataclass(frozen=True)
class Product:
    """[rows, depth] x [depth, columns] by wgmma instructions m64nNk16, each of one warpgroup.

    The columns are split over `split` warpgroups. Each instruction reads its N x 16 operand from shared memory, and
    its 64 x 16 operand too unless that is in registers: a narrow N leaves the tensor cores waiting for it.
    """

    rows: int
    columns: int
    depth: int
    split: int = 1
    registers: bool = False

    @property
    def flops(self) -> int:
        """A multiply-add counts as two."""
        return 2 * self.rows * self.columns * self.depth

    @property
    def shared_bytes(self) -> int:
        """Bytes that the instructions read from shared memory."""
        narrow = 0 if self.registers else 64 * 16 * 2
        instructions = -(-self.rows // 64) * self.split * (self.depth // 16)
        return instructions * (narrow + self.columns // self.split * 16 * 2)

    def cycles(self, chip: Chip) -> float:
        """Cycles on one multiprocessor: those of its tensor cores or of its shared memory, the larger."""
        return max(self.flops / chip.tensor_cycle, self.shared_bytes / chip.shared_cycle)
