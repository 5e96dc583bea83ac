"""The pictures of docs/dsa.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from tasks.benchmarks.dsa.arms import ARMS, CONTROL
from tasks.benchmarks.dsa.results import Case, Results

Warmed = Mapping[Case, Mapping[str, Sequence[Sequence[float]]]]  # captured mass by step, [seed][layer]
RETRIEVAL = (CONTROL, "joint", "warmup_only", "window", "random", "untrained", "wrong_rope")


def draw_masses(results: Results, warmed: Warmed, path: Path) -> None:
    """A panel a case: each layer's captured mass by selection, and by steps of warm-up; a dot a seed."""
    figure, panels = _panels(results.cases)
    for case, axis in panels:
        series: dict[str, Sequence[Sequence[float]]] = {
            arm: results.masses(case, arm) for arm in ("untrained", "random", "window")
        }
        series |= {f"warm-up, {step} steps" if step != "0" else "0": found for step, found in warmed[case].items()}
        for number, (name, masses) in enumerate(series.items()):
            layers = range(len(masses[0]))
            places = [layer + 0.12 * (number - len(series) / 2) for layer in layers]
            axis.bar(places, [fmean(seed[layer] for seed in masses) for layer in layers], 0.12, label=name)
            for seed in masses:
                axis.plot(places, seed, ".", color="black", markersize=3)
        axis.axhline(0.97, color="grey", linewidth=0.6)
        axis.axhline(0.94, color="grey", linewidth=0.6, linestyle=":")
        axis.set_xticks(list(layers), [f"layer {layer}" for layer in layers])
        axis.set_ylim(0, 1.02)
    panels[0][1].set_ylabel("share of the oracle's attention mass")
    _save(figure, panels[0][1], path)


def draw_losses(results: Results, path: Path) -> None:
    """A panel a case: every arm's loss over the control's, documents and plain text; a dot a seed."""
    figure, panels = _panels(results.cases)
    arms = [arm for arm in ARMS if arm != CONTROL]
    for case, axis in panels:
        for offset, part in enumerate(("documents", "text")):
            found = [results.loss_ratio(case, arm, part).value - 1 for arm in arms]
            places = [index + 0.36 * (offset - 0.5) for index in range(len(arms))]
            label = "documents that need retrieval" if part == "documents" else "plain text"
            axis.barh(places, found, 0.34, label=label)
            for place, arm in zip(places, arms, strict=True):
                ratios = results.loss_ratio_by_seed(case, arm, part)
                axis.plot([ratio - 1 for ratio in ratios], [place] * len(ratios), ".", color="black", markersize=4)
        axis.set_xscale("symlog", linthresh=0.01)
        axis.set_xlabel("held-out loss / control's, minus 1")
        axis.set_yticks(range(len(arms)), [ARMS[arm].title for arm in arms])
    panels[0][1].invert_yaxis()
    _save(figure, panels[0][1], path)


def draw_retrieval(results: Results, path: Path) -> None:
    """A panel a case: accuracy by distance of the arms that tell most, with 95 % intervals over documents."""
    figure, panels = _panels(results.cases)
    for case, axis in panels:
        for number, arm in enumerate(RETRIEVAL):
            found = results.accuracy(case, arm)
            places = [index + 0.05 * (number - len(RETRIEVAL) / 2) for index in range(len(found))]
            values = [e.value for e in found.values()]
            errors = [[e.value - e.ci95[0] for e in found.values()], [e.ci95[1] - e.value for e in found.values()]]
            axis.errorbar(places, values, yerr=errors, label=ARMS[arm].title, marker="o", markersize=3, capsize=2)
        axis.set_xticks(range(len(found)), list(found))
        axis.set_xlabel("tokens back to the first occurrence")
        axis.set_ylim(0, 1.02)
    panels[0][1].set_ylabel("held-out retrieval accuracy")
    _save(figure, panels[0][1], path)


def draw_curves(curves: Mapping[str, Sequence[Mapping[str, float]]], length: int, path: Path) -> None:
    """Loss against FLOPs and against seconds; DSA also as if its warm-up had been free (dotted)."""
    figure, axes = _pyplot().subplots(1, 2, figsize=(11, 3.8), sharey=True)
    for axis, unit in zip(axes, ("flops", "seconds"), strict=True):
        for number, (name, points) in enumerate(curves.items()):
            spent, losses = [point[unit] for point in points], [point["loss"] for point in points]
            axis.plot(spent, losses, label=name, marker="o", markersize=3, color=f"C{number}")
            if spent[0] > 0:
                axis.plot([s - spent[0] for s in spent], losses, ":", color=f"C{number}")
        axis.set_xlabel({"flops": "training FLOPs, by formula", "seconds": "training CPU seconds"}[unit])
    axes[0].set_ylabel(f"held-out loss at length {length}")
    _save(figure, axes[0], path)


def _panels(cases: Sequence[Case]) -> tuple[Any, list[tuple[Case, Any]]]:
    """A column a length, a row a selection."""
    lengths = sorted({case.length for case in cases})
    rows = -(-len(cases) // len(lengths))
    figure, axes = _pyplot().subplots(
        rows, len(lengths), figsize=(max(5.5, 4.5 * len(lengths)), 3.4 * rows), sharey=True, squeeze=False
    )
    panels = []
    for number, case in enumerate(cases):
        axis = axes[number % rows][lengths.index(case.length)]
        axis.set_title(f"length {case.length}, {case.topk} keys selected", fontsize=9)
        panels.append((case, axis))
    return figure, panels


def _save(figure: Any, legend_of: Any, path: Path) -> None:
    handles, labels = legend_of.get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=3, fontsize=8)
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.savefig(path, dpi=100, bbox_inches="tight")
    _pyplot().close(figure)


def _pyplot() -> Any:
    """Drawn to files: no display is needed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
