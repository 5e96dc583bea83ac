"""Key selection by the C kernel `cpu.c`."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from kernels.native import library, parallel, pointer

SOURCE = Path(__file__).with_name("cpu.c")


def available(scores: Tensor) -> bool:
    """Whether the C kernel can take these scores on this machine."""
    return scores.device.type == "cpu" and scores.dtype == torch.float32 and library(SOURCE) is not None


def select_keys(scores: Tensor, first: Tensor, last: Tensor, k: int) -> Tensor:
    """As `reference.select_keys`."""
    scores, first, last = scores.contiguous(), first.contiguous(), last.contiguous()
    out = torch.empty(*scores.shape[:-1], k, dtype=torch.int32)
    native, sizes = library(SOURCE), (ctypes.c_long(scores.shape[-1]), ctypes.c_long(k))
    assert native is not None
    inputs = pointer(scores), pointer(first), pointer(last)

    def work(begin: int, end: int) -> None:
        native.select_keys(*inputs, *sizes, pointer(out), ctypes.c_long(begin), ctypes.c_long(end))

    parallel(first.numel(), work)
    return out
