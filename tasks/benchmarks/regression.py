"""Whether a later measurement of the same recipe fell below an earlier one by more than chance explains."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.errors import MachineError

SCORE = "mean pass@1"


class RegressionError(MachineError):
    """A score fell beyond its interval, or there is nothing to compare with; the message says which."""


def check_regression(before: Path, after: Path) -> str:
    """Compares two metrics files of `evaluate`; a sentence with both values.

    Raises RegressionError naming the score, before and after, when the 95 % interval of the change lies below 0.
    """
    earlier, later = _families(before), _families(after)
    shared = sorted(earlier.keys() & later.keys())
    if not shared:
        raise RegressionError(f"The files {before} and {after} share no family, so {SCORE} cannot be compared.")
    old, new = [earlier[name] for name in shared], [later[name] for name in shared]
    _, low, high = mean_change(old, new)
    values = f"from {_mean(old):.3f} before to {_mean(new):.3f} after"
    if high < 0:
        raise RegressionError(
            f"{SCORE.capitalize()} over {', '.join(shared)} fell {values}; "
            f"the change's 95 % interval [{low:.3f}, {high:.3f}] lies below 0."
        )
    return f"{SCORE.capitalize()} over {', '.join(shared)} went {values}, 95 % interval [{low:.3f}, {high:.3f}]."


def mean_change(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    """after - before, families weighing equally, with its 95 % interval.

    The estimates' own intervals combine by square-and-add (Newcombe, Statistics in Medicine 17, 1998, method 10;
    Zou and Donner 2008 for sums), which stays right where a share is 0 or 1 and its interval one-sided.
    """
    change = _mean(after) - _mean(before)
    down = [_reach(b, 1) for b in before] + [_reach(a, 0) for a in after]
    up = [_reach(b, 0) for b in before] + [_reach(a, 1) for a in after]
    return change, change - math.hypot(*down) / len(before), change + math.hypot(*up) / len(before)


def _reach(estimate: Mapping[str, Any], side: int) -> float:
    """Distance from the value to the lower (0) or upper (1) end of its interval."""
    return abs(float(estimate["ci95"][side]) - float(estimate["value"]))


def _mean(estimates: Sequence[Mapping[str, Any]]) -> float:
    return sum(float(estimate["value"]) for estimate in estimates) / len(estimates)


def _families(path: Path) -> dict[str, Mapping[str, Any]]:
    """pass@1 of the agentic families: those measured greedily as well."""
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RegressionError(f"There is no {path} to compare with; run the recipe first.") from None
    found = {
        name: value["pass_at_1"]
        for name, value in metrics.items()
        if isinstance(value, dict) and {"pass_at_1", "greedy"} <= value.keys()
    }
    for name, estimate in found.items():
        if not all(map(math.isfinite, (estimate["value"], *estimate["ci95"]))):  # NaN is below nothing
            raise RegressionError(f"The pass@1 of {name} in {path} is {estimate['value']}, which is no score.")
    return found
