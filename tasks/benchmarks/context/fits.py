"""Exponents and crossovers of cost against context."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Costs = Mapping[int, float]  # seconds by length


def exponent(costs: Costs) -> float | None:
    """Slope of log seconds over log length, least squares over the upper half of the lengths; None for fewer than 2."""
    lengths = sorted(costs)[len(costs) // 2 :]
    if len(lengths) < 2:
        return None
    return float(np.polyfit(np.log(lengths), np.log([costs[length] for length in lengths]), 1)[0])


def crossover(dense: Costs, sparse: Costs) -> float | None:
    """The length from which on sparse is faster, up to the longest that both were measured at.

    Between two measured lengths the ratio of costs is taken as a power of the length. The shortest length where
    sparse is faster everywhere; None where it is slower at the longest.
    """
    lengths = sorted(set(dense) & set(sparse))
    gains = [float(np.log(dense[length] / sparse[length])) for length in lengths]
    if not gains or gains[-1] <= 0:
        return None
    last = max((i for i, gain in enumerate(gains) if gain <= 0), default=-1)
    if last < 0:
        return float(lengths[0])
    share = -gains[last] / (gains[last + 1] - gains[last])
    return float(lengths[last] * (lengths[last + 1] / lengths[last]) ** share)


def expected(costs: Costs, length: int) -> float | None:
    """Cost at a length from the two below it, never growing slower than linearly; None where there are not two."""
    below = sorted(known for known in costs if known < length)[-2:]
    if len(below) < 2:
        return None
    slope = np.log(costs[below[1]] / costs[below[0]]) / np.log(below[1] / below[0])
    return float(costs[below[1]] * (length / below[1]) ** max(1.0, slope))
