"""All that the page is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tasks.benchmarks.dsa.arms import ARMS
from tasks.benchmarks.dsa.plan import Plan
from tasks.benchmarks.dsa.results import Case, Results, Target, targets

Curves = Mapping[str, Sequence[Mapping[str, float]]]


@dataclass
class Findings:
    """What the command has found so far."""

    plan: Plan
    results: Results
    warmed: dict[Case, dict[str, list[list[float]]]] = field(default_factory=dict)  # mass by step, [seed][layer]
    raw: dict[Case, list[float]] = field(default_factory=dict)  # of the first seed, warmed up without the query norm
    retrieval_before: dict[str, list[float]] = field(default_factory=dict)  # after each round, by "seed, length"
    curves: Curves = field(default_factory=dict)
    curve_length: int = 0
    cpu_seconds: float = 0.0  # of all parts

    @property
    def lengths(self) -> list[int]:
        """Those that have scores, ascending."""
        return sorted({case.length for case in self.results.cases})

    @property
    def targets(self) -> dict[Case, list[Target]]:
        """Of every case, against the mass at the end of the warm-up."""
        return {c: targets(self.results, c, list(self.warmed[c].values())[-1]) for c in self.results.cases}

    def to_json(self) -> dict[str, Any]:
        """docs/dsa.json: the figures of every case and arm, the curves, and at what scale they were made."""
        cases = {f"length_{case.length}_top_{case.topk}": self._case(case) for case in self.results.cases}
        curves, scale = {"length": self.curve_length, "curves": self.curves}, asdict(self.plan.scale)
        return {"cases": cases, "compute": curves, "scale": scale, "cpu_seconds": round(self.cpu_seconds, 1)}

    def _case(self, case: Case) -> dict[str, Any]:
        return {
            "seeds": self.results.seeds(case.length),
            "targets": [target.to_json() for target in self.targets[case]],
            "captured_mass_by_warmup_step": self.warmed[case],
            "captured_mass_without_query_norm": self.raw.get(case),
            "arms": {arm: self._arm(case, arm) for arm in ARMS},
        }

    def _arm(self, case: Case, arm: str) -> dict[str, Any]:
        results = self.results
        return {
            "loss_ratio": results.loss_ratio(case, arm).to_json(),
            "loss_ratio_by_seed": results.loss_ratio_by_seed(case, arm),
            "loss_ratio_plain_text": results.loss_ratio(case, arm, "text").to_json(),
            "retrieval": {name: e.to_json() for name, e in results.accuracy(case, arm).items()},
            "retrieval_minus_control": {n: e.to_json() for n, e in results.accuracy_change(case, arm).items()},
            "captured_mass": results.masses(case, arm),
        }
