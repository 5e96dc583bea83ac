"""Estimates with intervals: clustered bootstrap, unbiased pass@k, paired differences, one-sided gates.

Samples of one task are not independent, so every resampling here draws whole clusters (tasks). Resampling
follows Efron and Tibshirani, "An Introduction to the Bootstrap" (1993): chapter 13 for percentile intervals,
section 14.3 for BCa. Everything is seeded: the same values give the same interval.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.errors import InputError

Floats = NDArray[np.float64]
Method = Literal["percentile", "bca"]

RESAMPLES = 2000
_CHUNK = 2_000_000  # drawn cluster indices held at once: 16 MB
_ALIKE = 1e-12  # a spread below this is rounding


class StatisticsError(InputError):
    """The values given cannot carry an estimate (none at all, not finite, or unequal lengths)."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its two-sided 95 % interval; `n` counts values, `clusters` the independent units."""

    value: float
    ci95: tuple[float, float]
    n: int
    stderr: float = 0.0
    clusters: int = 0

    def to_json(self) -> dict[str, object]:
        """The object every metrics file uses: value, ci95, n, stderr, clusters."""
        low, high = self.ci95
        return {
            "value": round(self.value, 6),
            "ci95": [round(low, 6), round(high, 6)],
            "n": self.n,
            "stderr": round(self.stderr, 6),
            "clusters": self.clusters,
        }


@dataclass(frozen=True)
class Gate:
    """Outcome of a one-sided test that a mean paired difference exceeds `-margin`."""

    passed: bool
    difference: float
    lower: float
    margin: float
    confidence: float
    clusters: int


def estimate(
    values: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
    weights: ArrayLike | None = None,
    method: Method = "percentile",
) -> Estimate:
    """Mean of `values` [N] with a 95 % bootstrap interval over whole clusters.

    clusters: one label a value (its task); None makes every value its own cluster.
    weights: a non-negative weight a value, for ratios such as bits per byte (value = bits/byte, weight = bytes).
    Raises StatisticsError for no values, values that are not finite, or unequal lengths.
    """
    array = _floats(values)
    sums, totals = _cluster_sums(array, clusters, weights)
    value = float(sums.sum() / totals.sum())
    means = bootstrap_means(sums, totals, seed)
    low, high = _interval(means, value, sums, totals, 0.95, method)
    stderr = float(means.std(ddof=1)) if len(sums) > 1 else 0.0
    return Estimate(value, (low, high), len(array), stderr, len(sums))


def proportion(successes: ArrayLike, clusters: Sequence[Hashable] | None = None, seed: int = 0) -> Estimate:
    """Share of successes [N] in {0, 1}, with its 95 % interval over whole clusters.

    Where all or none succeed the interval is the exact one for that many independent clusters.
    """
    found = estimate(successes, clusters, seed)
    if found.stderr > _ALIKE:
        return found
    down, up = _unseen(found.value, found.clusters, 0.0, 1.0)
    return replace(found, ci95=(found.value - down, found.value + up))


def paired_difference(
    before: ArrayLike, after: ArrayLike, clusters: Sequence[Hashable] | None = None, seed: int = 0
) -> Estimate:
    """Mean of `after - before` over the same units [N], scores in [0, 1], with its 95 % interval.

    Where every cluster changed alike (say, none did) the interval still admits clusters unlike those seen.
    """
    found = estimate(_paired(before, after), clusters, seed)
    if found.stderr > _ALIKE:
        return found
    down, up = _unseen(found.value, found.clusters, -1.0, 1.0)
    return replace(found, ci95=(found.value - down, found.value + up))


def gate(
    before: ArrayLike,
    after: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    margin: float = 0.0,
    confidence: float = 0.95,
    strata: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Gate:
    """One-sided test: passed when the lower bound of mean(after - before) lies above `-margin`.

    margin 0 demands superiority; a positive margin demands non-inferiority (Piaggio et al., JAMA 2012).
    strata: a label a value (its family); each stratum's mean then counts equally, and resampling stays within it.
    """
    difference = _paired(before, after)
    parts = _strata(difference, clusters, strata)
    means, value = _stratified(parts, seed)
    lower = float(np.quantile(means, 1.0 - confidence))
    return Gate(lower > -margin, value, lower, margin, confidence, sum(len(sums) for sums, _ in parts))


def stratified_difference(
    before: ArrayLike,
    after: ArrayLike,
    clusters: Sequence[Hashable] | None,
    strata: Sequence[Hashable],
    seed: int = 0,
) -> Estimate:
    """Mean over strata of the mean paired difference of scores in [0, 1], every stratum counting equally.

    Its 95 % interval is the bootstrap's; what strata whose clusters all changed alike leave unseen is combined with
    it by square-and-add (Zou and Donner, Statistics in Medicine 2008).
    """
    difference = _paired(before, after)
    parts = _strata(difference, clusters, strata)
    means, value = _stratified(parts, seed)
    low, high = (float(end) for end in np.quantile(means, [0.025, 0.975]))
    reaches = [_unseen(shares[0], len(shares), -1.0, 1.0) for shares in _agreeing(parts)]
    down, up = (math.hypot(*side) / len(parts) for side in zip(*reaches, strict=True)) if reaches else (0.0, 0.0)
    ci95 = (value - math.hypot(value - low, down), value + math.hypot(high - value, up))
    return Estimate(value, ci95, len(difference), float(means.std(ddof=1)), sum(len(sums) for sums, _ in parts))


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Unbiased chance that one of `k` draws is correct: 1 - prod(1 - k / arange(n - c + 1, n + 1)).

    Chen et al., "Evaluating Large Language Models Trained on Code" (2021), equation 1.
    Raises StatisticsError unless 0 <= correct <= samples and 1 <= k <= samples.
    """
    if not (0 <= correct <= samples and 1 <= k <= samples):
        raise StatisticsError(f"pass@{k} is not defined for {correct} correct of {samples} samples.")
    if samples - correct < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(samples - correct + 1, samples + 1)))


def bootstrap_means(sums: Floats, totals: Floats, seed: int, resamples: int = RESAMPLES) -> Floats:
    """Weighted means [resamples] of cluster resamples, from per-cluster sums [C] and total weights [C]."""
    rng = np.random.default_rng(seed)
    count = len(sums)
    rows = max(1, _CHUNK // count)
    parts = []
    for start in range(0, resamples, rows):
        drawn = rng.integers(0, count, size=(min(rows, resamples - start), count))
        weight = totals[drawn].sum(axis=1)
        parts.append(sums[drawn].sum(axis=1) / np.where(weight > 0, weight, 1.0))
    return np.concatenate(parts)


def _floats(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64).reshape(-1)
    if array.size == 0:
        raise StatisticsError("An estimate needs at least one value and none was given.")
    if not np.isfinite(array).all():
        raise StatisticsError("An estimate needs finite values and one of those given is not.")
    return array


def _paired(before: ArrayLike, after: ArrayLike) -> Floats:
    first, second = _floats(before), _floats(after)
    if len(first) != len(second):
        raise StatisticsError(f"A paired difference needs equal lengths, not {len(first)} and {len(second)}.")
    return second - first


def _codes(labels: Sequence[Hashable], length: int) -> NDArray[np.int64]:
    """Cluster numbers [N] in order of first appearance."""
    if len(labels) != length:
        raise StatisticsError(f"There are {length} values and {len(labels)} cluster labels.")
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(label, len(seen)) for label in labels], dtype=np.int64)


def _cluster_sums(
    values: Floats, clusters: Sequence[Hashable] | None, weights: ArrayLike | None
) -> tuple[Floats, Floats]:
    """Per cluster: the weighted sum of its values [C], and its total weight [C]."""
    weight = np.ones_like(values) if weights is None else _floats(weights)
    if len(weight) != len(values):
        raise StatisticsError(f"There are {len(values)} values and {len(weight)} weights.")
    if (weight < 0).any() or weight.sum() <= 0:
        raise StatisticsError("Weights must be non-negative and one of them positive.")
    if clusters is None:
        return values * weight, weight
    codes = _codes(clusters, len(values))
    count = int(codes.max()) + 1
    return np.bincount(codes, values * weight, count).astype(float), np.bincount(codes, weight, count).astype(float)


def _strata(
    values: Floats, clusters: Sequence[Hashable] | None, strata: Sequence[Hashable] | None
) -> list[tuple[Floats, Floats]]:
    """Of every stratum the sums and total weights of its clusters."""
    groups = np.zeros(len(values), dtype=np.int64) if strata is None else _codes(strata, len(values))
    labels = range(len(values)) if clusters is None else clusters
    units = _codes(list(labels), len(values))
    masks = [groups == index for index in range(int(groups.max()) + 1)]
    return [_cluster_sums(values[mask], [int(unit) for unit in units[mask]], None) for mask in masks]


def _stratified(parts: Sequence[tuple[Floats, Floats]], seed: int) -> tuple[Floats, float]:
    """Bootstrap means [resamples] and point value, strata averaged with equal weight."""
    means = [bootstrap_means(sums, totals, seed + index) for index, (sums, totals) in enumerate(parts)]
    points = [float(sums.sum() / totals.sum()) for sums, totals in parts]
    return np.mean(means, axis=0), float(np.mean(points))


def _agreeing(parts: Sequence[tuple[Floats, Floats]]) -> list[list[float]]:
    """The clusters' means of those strata in which they are all the same."""
    means = [(sums / totals).tolist() for sums, totals in parts]
    return [values for values in means if max(values) - min(values) <= _ALIKE]


def _unseen(value: float, clusters: int, floor: float, ceiling: float) -> tuple[float, float]:
    """How far below and above `value`, shared by all clusters seen, a mean of values in [floor, ceiling] may lie.

    Every resample is alike there and a bootstrap would claim certainty. But that all of them agree is only evidence
    that at most a share 1 - 0.025 ** (1 / clusters) of the clusters does not, on either side (Clopper and Pearson,
    Biometrika 1934; about 3.7 / clusters), and those may lie at the ends.
    """
    share = 1.0 - float(0.025 ** (1.0 / clusters))
    return (value - floor) * share, (ceiling - value) * share


def _interval(
    means: Floats, value: float, sums: Floats, totals: Floats, confidence: float, method: Method
) -> tuple[float, float]:
    tail = (1.0 - confidence) / 2.0
    levels = (tail, 1.0 - tail)
    if method == "bca" and len(sums) > 2 and means.std() > 0:
        levels = _bca_levels(means, value, sums, totals, levels)
    low, high = np.quantile(means, levels)
    return float(low), float(high)


def _bca_levels(
    means: Floats, value: float, sums: Floats, totals: Floats, levels: tuple[float, float]
) -> tuple[float, float]:
    """Quantile levels corrected for bias (share below) and acceleration (jackknife skew)."""
    normal = NormalDist()
    below = float(np.clip(((means < value) + 0.5 * (means == value)).mean(), 1e-6, 1 - 1e-6))
    bias = normal.inv_cdf(below)
    left = totals.sum() - totals
    jackknife = (sums.sum() - sums) / np.where(left > 0, left, 1.0)
    centred = jackknife.mean() - jackknife
    spread = float((centred**2).sum()) ** 1.5
    acceleration = float((centred**3).sum()) / (6.0 * spread) if spread > 0 else 0.0

    def corrected(level: float) -> float:
        shifted = bias + normal.inv_cdf(level)
        return normal.cdf(bias + shifted / (1.0 - acceleration * shifted))

    return corrected(levels[0]), corrected(levels[1])
