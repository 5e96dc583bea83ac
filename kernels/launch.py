"""Where Triton kernels run: on a CUDA GPU, or on the CPU by Triton's interpreter, which tests ask for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

from kernels.cases import SM80, SM90, SM100, Settings, for_chip

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # kernels run on CPU tensors, one program after the other
_INTERPRETABLE = (torch.float32, torch.int32, torch.int64)  # the interpreter's bf16 arithmetic is wrong
_GPU_TYPES = (torch.bfloat16, torch.float32)
HOPPER_SHARED = 232_448  # bytes a block of sm_90 may have; the tiles of attention over latents need nearly all of them
F = TypeVar("F", bound=Callable[..., Any])


def runs(*tensors: Tensor) -> bool:
    """Whether Triton kernels can take these tensors in this process."""
    if INTERPRETED:
        return all(x.dtype in _INTERPRETABLE for x in tensors)
    return all(x.is_cuda and (x.dtype in _GPU_TYPES or not x.is_floating_point()) for x in tensors)


def on_gpu(x: Tensor) -> bool:
    """Whether an operation on x goes to the CUDA kernels; they compute in fp32, so float64 does not."""
    return bool(x.is_cuda and x.dtype in _GPU_TYPES)


def tiles(width: int) -> bool:
    """Whether rows of this width are a tile's: a power of two, and no less than tensor cores take."""
    return width >= 16 and width & (width - 1) == 0


def is_roomy(x: Tensor) -> bool:
    """Whether the device of x has the shared memory of Hopper; older and smaller GPUs have not."""
    if not x.is_cuda:
        return True
    return int(torch.cuda.get_device_properties(x.device).shared_memory_per_block_optin) >= HOPPER_SHARED


def is_wide(x: Tensor) -> bool:
    """Whether tiles of x on a GPU have to be smaller than those of bf16 to fit on chip."""
    return bool(x.is_cuda and x.element_size() > 2)


def chip(x: Tensor) -> int:
    """The generation whose settings suit the device of x: Ampere's where it is neither of the later two."""
    if not x.is_cuda:
        return SM90
    return {9: SM90, 10: SM100}.get(torch.cuda.get_device_capability(x.device)[0], SM80)


def settings(x: Tensor, common: Settings, on_chip: Mapping[int, Settings]) -> dict[str, Any]:
    """Those of a launch on the device of x; the compile gate takes them from the same dictionaries."""
    return for_chip(common, on_chip, chip(x))


def multiprocessors(x: Tensor) -> int | None:
    """Those of the GPU that x is on; None where it is on none."""
    return int(torch.cuda.get_device_properties(x.device).multi_processor_count) if x.is_cuda else None


def on_device(function: F) -> F:
    """Launches on the GPU of the first tensor given, whichever is the current one."""

    @wraps(function)
    def launched(*args: Any, **kwargs: Any) -> Any:
        device = next((x.device for x in _tensors(args) if x.is_cuda), None)
        if device is None:
            return function(*args, **kwargs)
        with torch.cuda.device(device):
            return function(*args, **kwargs)

    return launched  # type: ignore[return-value]


def _tensors(values: Iterable[Any]) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple):
            yield from _tensors(value)
