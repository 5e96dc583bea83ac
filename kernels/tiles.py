"""What the attention kernels share: how many heads make the rows of a tile, and the base of their exponentials."""

import triton
import triton.language as tl
from torch import Tensor

from kernels import launch

LOG2E = tl.constexpr(1.4426950408889634)  # the kernels use exp2, which the hardware has
SMALL = 16  # rows or keys of a tile of fp32 on a GPU: twice as wide as bf16, it has to be smaller to fit on chip


def head_rows(query: Tensor) -> int:
    """Heads a tile, for query [..., H, D]: tensor cores want 16 at least, and 64 of bf16 fit on chip."""
    return SMALL if launch.is_wide(query) else int(min(64, max(16, triton.next_power_of_2(query.shape[-2]))))


def keys_of(query: Tensor, block: int) -> int:
    """Keys a tile, where `block` of them fit in bf16."""
    return SMALL if launch.is_wide(query) else block
