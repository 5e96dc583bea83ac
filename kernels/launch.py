"""Where Triton kernels run: on a CUDA GPU, or on the CPU by Triton's interpreter, which tests ask for."""

from __future__ import annotations

import os

import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # kernels run on CPU tensors, one program after the other
_INTERPRETABLE = (torch.float32, torch.int32, torch.int64)  # the interpreter's bf16 arithmetic is wrong


def runs(*tensors: Tensor) -> bool:
    """Whether Triton kernels can take these tensors in this process."""
    if INTERPRETED:
        return all(x.dtype in _INTERPRETABLE for x in tensors)
    return all(x.is_cuda for x in tensors)
