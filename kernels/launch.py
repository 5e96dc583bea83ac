"""Where Triton kernels run: on a CUDA GPU, or on the CPU by Triton's interpreter, which tests ask for."""

from __future__ import annotations

import os

import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # kernels run on CPU tensors, one program after the other
_INTERPRETABLE = (torch.float32, torch.int32, torch.int64)  # the interpreter's bf16 arithmetic is wrong
_GPU_TYPES = (torch.bfloat16, torch.float16, torch.float32)


def runs(*tensors: Tensor) -> bool:
    """Whether Triton kernels can take these tensors in this process."""
    if INTERPRETED:
        return all(x.dtype in _INTERPRETABLE for x in tensors)
    return all(x.is_cuda for x in tensors)


def on_gpu(x: Tensor) -> bool:
    """Whether an operation on x goes to the CUDA kernels; they compute in fp32, so float64 does not."""
    return x.is_cuda and x.dtype in _GPU_TYPES


def tiles(width: int) -> bool:
    """Whether rows of this width are a tile's: a power of two, and no less than tensor cores take."""
    return width >= 16 and width & (width - 1) == 0
