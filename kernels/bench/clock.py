"""How long a call takes: CUDA events on a GPU, the wall clock elsewhere."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

FLUSH = 512 << 20  # bytes: several times the L2 of any chip; takes long enough for the host to launch what is timed


@dataclass(frozen=True)
class Timing:
    """Milliseconds: the median of `repeats` calls, and the first and ninth tenth."""

    median: float
    low: float
    high: float
    repeats: int


def time_call(call: Callable[[], Any], device: str, seconds: float, most: int = 100) -> Timing:
    """Calls it for about `seconds` (three times at least), after warming up, with a cold L2 before every call."""
    once = _event if device == "cuda" else _wall
    buffer = torch.empty(FLUSH, dtype=torch.int8, device=device) if device == "cuda" else None
    for _ in range(2):
        rough = once(call, buffer)
    repeats = max(3, min(most, int(1000 * seconds / max(rough, 1e-3))))
    times = sorted(once(call, buffer) for _ in range(repeats))
    tenth = len(times) // 10
    return Timing(statistics.median(times), times[tenth], times[-1 - tenth], repeats)


def _event(call: Callable[[], Any], buffer: torch.Tensor | None) -> float:
    if buffer is not None:
        buffer.zero_()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end))


def _wall(call: Callable[[], Any], _: torch.Tensor | None) -> float:
    begin = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - begin)
