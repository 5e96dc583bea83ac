"""What autocast to bfloat16 means to the operations here: the operands of large matrix products are rounded, no more.

Products come back to fp32, so that activations, residuals, norms, gates and losses are fp32, and so are what is chosen
by comparing numbers close to each other: routing and the selection of keys. (On a GPU those of linear layers stay bf16,
as torch has it.) Rounding all of them changes gradients by a quarter at random initialisation, where scores lie close
together.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def rounds(x: Tensor) -> bool:
    """Whether autocast to bfloat16 is on for the device of x."""
    kind = x.device.type
    return _enabled(kind) and torch.get_autocast_dtype(kind) is torch.bfloat16


def exact(x: Tensor) -> AbstractContextManager[object]:
    """A context in which autocast rounds nothing on the device of x."""
    kind = x.device.type
    context: AbstractContextManager[object] = torch.autocast(kind, enabled=False) if _enabled(kind) else nullcontext()
    return context


def _enabled(kind: str) -> bool:
    """Some devices, "meta" among them, know no autocast and raise when asked."""
    return bool(torch.amp.is_autocast_available(kind)) and torch.is_autocast_enabled(kind)
