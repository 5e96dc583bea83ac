"""Whether numbers are numbers: nothing that is NaN or infinite is published or sampled from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def all_finite(tensors: Mapping[str, Tensor]) -> bool:
    """Whether no tensor holds NaN or an infinity; one synchronisation with the device."""
    return not tensors or bool(torch.stack([torch.isfinite(value).all() for value in tensors.values()]).all())


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors that hold NaN or an infinity."""
    if all_finite(tensors):
        return []
    return [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
