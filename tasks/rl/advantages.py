"""Group-relative advantages (GRPO, arXiv 2402.03300): the z-score of a reward within its group."""

from __future__ import annotations

import math
from collections.abc import Sequence

EPSILON = 1e-6


def is_reward(value: float) -> bool:
    """Whether a verdict's number can be a reward: from 0 to 1."""
    return math.isfinite(value) and 0.0 <= value <= 1.0


def repaired(rewards: Sequence[float | None]) -> list[int] | None:
    """For each place in the group, which sample fills it: itself, or a valid one where the environment failed.

    None if half of the group or less is valid: the group is dropped (GLM-5, arXiv 2602.15763, section 4).
    """
    valid = [index for index, reward in enumerate(rewards) if reward is not None]
    if 2 * len(valid) <= len(rewards):
        return None
    filler = iter(valid)
    return [index if rewards[index] is not None else next(filler) for index in range(len(rewards))]


def group_advantages(rewards: Sequence[float | None]) -> list[tuple[int, float]] | None:
    """(sample, advantage) for each place of a repaired group; None if it teaches nothing.

    Advantage is `(R - mean) / std` over the repaired group with the population's standard deviation.
    """
    places = repaired(rewards)
    if places is None:
        return None
    values = [float(rewards[index] or 0.0) for index in places]
    mean = math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
    if deviation < EPSILON:
        return None
    return [(index, (value - mean) / deviation) for index, value in zip(places, values, strict=True)]
