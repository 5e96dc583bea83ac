"""Figures from the scores of all seeds: ratios and accuracies with intervals that draw whole documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from tasks.benchmarks.dsa.arms import CONTROL, Score
from tasks.statistics import Estimate, estimate


@dataclass(frozen=True)
class Case:
    """One length and one number of selected keys."""

    length: int
    topk: int

    @property
    def share(self) -> int:
        """topk is the length divided by this."""
        return self.length // self.topk


class Results:
    """All scores that are there."""

    def __init__(self, scores: Sequence[Score]) -> None:
        self.scores = scores

    @property
    def cases(self) -> list[Case]:
        """Lengths ascending, and of each the larger selection first."""
        found = {(score.length, -score.topk) for score in self.scores if score.topk}
        return [Case(length, -topk) for length, topk in sorted(found)]

    def seeds(self, length: int) -> list[int]:
        """The seeds with scores at a length."""
        return sorted({score.seed for score in self.scores if score.length == length})

    def of(self, case: Case, arm: str) -> list[Score]:
        """The arm's scores, seed after seed."""
        topk = 0 if arm == CONTROL else case.topk
        found = [s for s in self.scores if (s.length, s.topk, s.arm) == (case.length, topk, arm)]
        return sorted(found, key=lambda score: score.seed)

    def loss_ratio(self, case: Case, arm: str, part: str = "documents") -> Estimate:
        """Nats of the arm / nats of the control over the same documents; `part` is "documents" or "text"."""
        values, weights, labels = [], [], []
        for ours, control in zip(self.of(case, arm), self.of(case, CONTROL), strict=True):
            pairs = zip(ours.found[part]["nats"], control.found[part]["nats"], strict=True)
            for number, (nats, base) in enumerate(pairs):
                values.append(nats / base)
                weights.append(base)
                labels.append(number)
        return estimate(values, labels, weights=weights)

    def loss_ratio_by_seed(self, case: Case, arm: str, part: str = "documents") -> list[float]:
        """The same of each seed alone."""
        pairs = zip(self.of(case, arm), self.of(case, CONTROL), strict=True)
        return [sum(a.found[part]["nats"]) / sum(c.found[part]["nats"]) for a, c in pairs]

    def accuracy(self, case: Case, arm: str) -> dict[str, Estimate]:
        """Share of scored tokens that are found, by distance."""
        return {name: self._share(self.of(case, arm), None, name) for name in self.bins(case)}

    def accuracy_change(self, case: Case, arm: str) -> dict[str, Estimate]:
        """The arm's accuracy minus the control's over the same tokens, by distance."""
        return {name: self._share(self.of(case, arm), self.of(case, CONTROL), name) for name in self.bins(case)}

    def bins(self, case: Case) -> list[str]:
        """The names of the distances at this length, of those at which any string comes again."""
        retrieval = self.of(case, CONTROL)[0].found["retrieval"]
        return [name for name, found in retrieval.items() if sum(found["scored"])]

    def masses(self, case: Case, arm: str) -> list[list[float]]:
        """What the arm's selection captures, [seed][layer]."""
        return [[layer["captured"] for layer in score.found["masses"]] for score in self.of(case, arm)]

    def _share(self, ours: Sequence[Score], control: Sequence[Score] | None, name: str) -> Estimate:
        values, weights, labels = [], [], []
        for index, score in enumerate(ours):
            found = score.found["retrieval"][name]
            base = control[index].found["retrieval"][name]["hits"] if control else [0] * len(found["hits"])
            for number, (hits, other, scored) in enumerate(zip(found["hits"], base, found["scored"], strict=True)):
                values.append((hits - other) / max(scored, 1))
                weights.append(scored)
                labels.append(number)
        return estimate(values, labels, weights=weights)


def mean_and_worst(masses: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Of [seed][layer]: the mean over all, and the worst layer of any seed."""
    return fmean(fmean(layers) for layers in masses), min(min(layers) for layers in masses)


@dataclass(frozen=True)
class Target:
    """A figure and the bound that it should keep; `low` says that the bound is one from below."""

    text: str
    value: float
    bound: float
    low: bool

    @property
    def met(self) -> bool:
        """Whether the figure, as measured, keeps it."""
        return self.value >= self.bound if self.low else self.value <= self.bound

    def to_json(self) -> dict[str, Any]:
        """For docs/dsa.json."""
        return {"target": self.text, "value": round(self.value, 5), "bound": self.bound, "met": self.met}


RATIO_BOUNDS = {8: 1.005, 16: 1.01}  # of the joint arm, by the share of the length that is selected


def targets(results: Results, case: Case, warmed: Sequence[Sequence[float]]) -> list[Target]:
    """What was set before the run; `warmed` [seed][layer] is the mass captured when the warm-up ended."""
    mean, worst = mean_and_worst(warmed)
    change = min(found.value for found in results.accuracy_change(case, "joint").values())
    blind = max(results.accuracy(case, "window")[name].value for name in beyond(results, case))
    bound = RATIO_BOUNDS[case.share]
    return [
        Target("attention mass captured after warm-up, mean of the layers", mean, 0.97, True),
        Target("attention mass captured after warm-up, worst layer", worst, 0.94, True),
        Target("joint: held-out loss / control's", results.loss_ratio(case, "joint").value, bound, False),
        Target("joint: retrieval minus control's, worst distance", change, -0.02, True),
        Target("window: retrieval beyond its reach, best distance", blind, 0.35, False),
    ]


def beyond(results: Results, case: Case) -> list[str]:
    """The distances of which no token lies inside a window of topk keys."""
    return [name for name in results.bins(case) if int(name.split("-")[0]) > case.topk]
