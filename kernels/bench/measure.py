"""Checks and times one operation: every shape, every candidate."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from kernels.bench.check import Verdict, check
from kernels.bench.clock import Timing, time_call
from kernels.bench.entry import Candidate, Entry, Inputs, Place, Shape, Sweep
from kernels.bench.tiling import tiled

KERNEL = "kernel"


@dataclass(frozen=True)
class Row:
    """One candidate at one shape. note: why there is no timing, else empty; tiling: what a sweep tried."""

    operation: str
    shape: Shape
    candidate: str
    timing: Timing | None = None
    tflops: float = 0.0
    gbps: float = 0.0
    note: str = ""
    tiling: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Budget:
    """Seconds of the whole run, and how long one candidate is measured."""

    seconds: float
    each: float
    begin: float = field(default_factory=time.monotonic)

    @property
    def spent(self) -> bool:
        """Whether nothing more should start."""
        return time.monotonic() - self.begin > self.seconds


def checked(entry: Entry, place: Place, shape: Shape) -> Verdict | str:
    """Whether the kernel is right; a sentence where it could not run."""
    missing = entry.missing()
    if missing:
        return missing
    try:
        return check(entry, place, shape)
    except Exception as problem:
        return f"The kernel failed: {_short(problem)}"
    finally:
        _tidy(place)


def rows(entry: Entry, place: Place, shapes: list[Shape], budget: Budget) -> Iterator[Row]:
    """Timings of the kernel and everything it is measured against."""
    for shape in shapes:
        for candidate in (Candidate(KERNEL, entry.kernel, missing=entry.missing()), *entry.baselines):
            yield _row(entry, candidate, place, shape, budget)


def sweeps(entry: Entry, place: Place, shape: Shape, budget: Budget) -> Iterator[Row]:
    """Timings of the kernel with other tilings."""
    for sweep in entry.sweeps:
        for options in sweep.options:
            with tiled(sweep, options):
                row = _row(entry, Candidate(KERNEL, entry.kernel, missing=entry.missing()), place, shape, budget)
            yield _with_tiling(row, sweep, options)


def _with_tiling(row: Row, sweep: Sweep, options: Mapping[str, int]) -> Row:
    name = f"{sweep.kernel} " + " ".join(f"{k}={v}" for k, v in options.items())
    return Row(row.operation, row.shape, name, row.timing, row.tflops, row.gbps, row.note, options)


def _row(entry: Entry, candidate: Candidate, place: Place, shape: Shape, budget: Budget) -> Row:
    if candidate.missing or budget.spent:
        return Row(entry.name, shape, candidate.name, note=candidate.missing or "Left out: the time is spent.")
    try:
        inputs = (candidate.make or entry.make)(place, shape)
        timing = time_call(_call(candidate, inputs), place.device, budget.each)
    except Exception as problem:
        return Row(entry.name, shape, candidate.name, note=_short(problem))
    finally:
        inputs = ()
        _tidy(place)
    if candidate.make:  # other work than the kernel's: only the time compares
        return Row(entry.name, shape, candidate.name, timing)
    seconds = timing.median / 1000
    rates = entry.flops(shape) / seconds / 1e12, entry.bytes(shape) / seconds / 1e9
    return Row(entry.name, shape, candidate.name, timing, *rates)


def _call(candidate: Candidate, inputs: Inputs) -> Any:
    return lambda: candidate.run(*inputs)


def _short(problem: Exception) -> str:
    lines = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {lines[0][:160] if lines else ''}"


def _tidy(place: Place) -> None:
    gc.collect()
    if place.device == "cuda":
        torch.cuda.empty_cache()
