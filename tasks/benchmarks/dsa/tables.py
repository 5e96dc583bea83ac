"""The tables of docs/dsa.md, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from tasks.benchmarks.dsa.arms import ARMS, CONTROL
from tasks.benchmarks.dsa.results import Case, Results, Target, mean_and_worst
from tasks.benchmarks.markdown import table
from tasks.statistics import Estimate

ACCURACY_ARMS = (CONTROL, *(arm for arm in ARMS if arm != CONTROL))


def title(case: Case) -> str:
    """How tables name a case."""
    return f"{case.length}, top {case.topk} (1/{case.share})"


def targets(found: Mapping[Case, Sequence[Target]]) -> str:
    """Every target at every length, met or missed as measured."""
    rows = [
        [title(case), t.text, f"{t.value:.4f}", f"{'>=' if t.low else '<='} {t.bound:g}", _outcome(t)]
        for case, items in found.items()
        for t in items
    ]
    return table(["length, keys selected", "target", "measured", "bound", ""], rows)


def _outcome(target: Target) -> str:
    return "met" if target.met else "**missed**"


def masses(results: Results, case: Case, warmed: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """Share of the oracle's mass, mean over seeds of each layer; then the mean and the worst layer of any seed."""
    selections = {
        "indexer as initialised": results.masses(case, "untrained"),
        **{f"warm-up, {step} steps": found for step, found in warmed.items()},
        "joint, after sparse training": results.masses(case, "joint"),
        "joint, indexer rotated half-split": results.masses(case, "wrong_rope"),
        "joint, index queries not normalised": results.masses(case, "no_query_norm"),
        "sliding window": results.masses(case, "window_untrained"),
        "random keys": results.masses(case, "random"),
    }
    layers = range(len(results.masses(case, "joint")[0]))
    rows = []
    for name, found in selections.items():
        mean, worst = mean_and_worst(found)
        cells = [f"{fmean(seed[layer] for seed in found):.3f}" for layer in layers]
        rows.append([name, *cells, f"{mean:.4f}", f"{worst:.4f}"])
    return table(["selection", *(f"layer {layer}" for layer in layers), "mean", "worst layer, any seed"], rows)


def losses(results: Results) -> str:
    """Held-out loss over the control's, documents that need retrieval and plain text."""
    rows = []
    for arm in ARMS:
        for case in results.cases:
            if arm != CONTROL:
                by_seed = results.loss_ratio_by_seed(case, arm)
                span = f"{min(by_seed):.4f} to {max(by_seed):.4f}" if len(by_seed) > 1 else "one seed"
                documents, text = (results.loss_ratio(case, arm, part) for part in ("documents", "text"))
                rows.append([ARMS[arm].title, title(case), interval(documents, 4), span, interval(text, 4)])
    head = ["arm", "length, keys selected", "documents that need retrieval", "from seed to seed", "plain text"]
    return table(head, rows)


def control_losses(results: Results) -> str:
    """Nats a token of the control itself."""
    rows = []
    for case in {case.length: case for case in results.cases}.values():
        scores = results.of(case, CONTROL)
        values = [
            fmean(sum(score.found[part]["nats"]) / sum(score.found[part]["tokens"]) for score in scores)
            for part in ("documents", "text")
        ]
        rows.append([str(case.length), *(f"{value:.4f}" for value in values)])
    return table(["length", "documents that need retrieval", "plain text"], rows)


def retrieval(results: Results, case: Case) -> str:
    """Accuracy by distance of every arm, and the joint arm's change against the control."""
    rows = [
        [ARMS[arm].title, *(interval(found, 3) for found in results.accuracy(case, arm).values())]
        for arm in ACCURACY_ARMS
    ]
    change = results.accuracy_change(case, "joint").values()
    rows.append(["joint minus control, paired by document", *(interval(found, 3, "+") for found in change)])
    return table(["arm", *(f"{name} tokens back" for name in results.bins(case))], rows)


def mistakes(results: Results) -> str:
    """Loss and retrieval of the two mistakes next to the joint arm they were made in."""
    rows = []
    for case in results.cases:
        for arm in ("joint", "wrong_rope", "no_query_norm"):
            worst = min(found.value for found in results.accuracy(case, arm).values())
            ratio = interval(results.loss_ratio(case, arm), 4)
            rows.append([title(case), ARMS[arm].title, ratio, f"{worst:.3f}"])
    return table(["length, keys selected", "arm", "held-out loss / control's", "retrieval, worst distance"], rows)


def raw_warmup(warmed: Mapping[Case, Mapping[str, Sequence[Sequence[float]]]], raw: Mapping[Case, list[float]]) -> str:
    """Mass captured when the first seed's warm-up ended, with the query norm and without it."""
    rows = []
    for case, masses in raw.items():
        pairs = {"warmed up": list(warmed[case].values())[-1][0], "warmed up without the query norm": masses}
        for name, found in pairs.items():
            rows.append([title(case), name, *(f"{value:.4f}" for value in mean_and_worst([found]))])
    return table(["length, keys selected", "indexer", "mass captured, mean", "worst layer"], rows)


def curves(found: Mapping[str, Sequence[Mapping[str, float]]], unit: str, free_warmup: bool) -> str:
    """Loss of every curve at even shares of the compute that all of them reached."""
    moved = {name: shifted(points) if free_warmup else points for name, points in found.items()}
    reach = min(points[-1][unit] for points in moved.values())
    budgets = [reach * share / 4 for share in range(1, 5)]
    text = [f"{b:.2e}" if unit == "flops" else f"{b:.0f} s" for b in budgets]
    rows = [[name, *(_at(points, unit, budget) for budget in budgets)] for name, points in moved.items()]
    return table(["curve", *text], rows)


def shifted(points: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """The same points, counted from the first."""
    return [{k: v - points[0][k] if k in ("flops", "seconds") else v for k, v in point.items()} for point in points]


def loss_at(points: Sequence[Mapping[str, float]], unit: str, budget: float) -> float | None:
    """The loss between the two points around the budget; None outside the curve."""
    spent = [point[unit] for point in points]
    if not spent[0] <= budget <= spent[-1]:
        return None
    return float(np.interp(budget, spent, [point["loss"] for point in points]))


def _at(points: Sequence[Mapping[str, float]], unit: str, budget: float) -> str:
    loss = loss_at(points, unit, budget)
    return "warming up" if loss is None else f"{loss:.4f}"


def interval(found: Estimate, digits: int, sign: str = "") -> str:
    """value [low, high]."""
    return "{0:{s}.{d}f} [{1:{s}.{d}f}, {2:{s}.{d}f}]".format(found.value, *found.ci95, s=sign, d=digits)
