"""Pictures of the report as SVG text that follows the page's colours; nothing is loaded from elsewhere."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import nan
from statistics import median
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#010203"  # stands for the page's text colour and is replaced by `currentColor`
COLOURS = ("#3b82f6", "#f59e0b", "#10b981", "#a855f7")
GREY = "#94a3b8"
# Times the usual distance of two points: what lies between was left out, and a line there would be made up.
FAR = 5

Interval = tuple[float, float, float]  # value, low, high


def interval(estimate: Any) -> Interval:
    """(value, low, high) of an estimate as the metrics files hold it; a plain number has no width."""
    if not isinstance(estimate, Mapping):
        return float(estimate), float(estimate), float(estimate)
    low, high = estimate["ci95"]
    return float(estimate["value"]), float(low), float(high)


def curves(title: str, lines: Mapping[str, Sequence[Sequence[float]]], x: str, y: str) -> str:
    """Lines through (x, y) points, one a name; a line has a gap where x leaves steps out."""
    figure, axes = _figure(title, x, y)
    for colour, (name, points) in zip(COLOURS, lines.items(), strict=False):
        shown = with_gaps(points)
        axes.plot([at for at, _ in shown], [value for _, value in shown], color=colour, lw=1.8, label=name)
    if len(lines) > 1:
        _legend(figure, axes)
    return svg(figure, title)


def with_gaps(points: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """The points, and one without a value behind each that the next is far from."""
    steps = [after[0] - before[0] for before, after in pairwise(points)]
    usual = median(steps) if steps else 0.0
    found: list[tuple[float, float]] = []
    for (at, value), step in zip(points, [*steps, 0.0], strict=False):
        found += [(at, value), (at, nan)] if step > FAR * usual else [(at, value)]
    return found


def bars(title: str, groups: Mapping[str, Mapping[str, Interval]], y: str, baseline: float | None = None) -> str:
    """Grouped bars with 95 % intervals: groups[category][series]."""
    figure, axes = _figure(title, "", y)
    series = list(dict.fromkeys(name for group in groups.values() for name in group))
    width = 0.8 / max(1, len(series))
    for index, (name, colour) in enumerate(zip(series, COLOURS, strict=False)):
        shown = [(place, group[name]) for place, group in enumerate(groups.values()) if name in group]
        at = [place + (index - (len(series) - 1) / 2) * width for place, _ in shown]
        values = [value for _, (value, _, _) in shown]
        below = [max(0.0, value - low) for _, (value, low, _) in shown]
        above = [max(0.0, high - value) for _, (value, _, high) in shown]
        axes.bar(at, values, width * 0.92, color=colour, label=name)
        axes.errorbar(at, values, [below, above], fmt="none", ecolor=INK, elinewidth=1.2, capsize=3)
    axes.set_xticks(range(len(groups)), list(groups))
    if baseline is not None:
        axes.axhline(baseline, color=GREY, lw=1, ls="--")
    if len(series) > 1:
        _legend(figure, axes)
    return svg(figure, title)


def lengths(title: str, amounts: Mapping[str, float], x: str) -> str:
    """Horizontal bars, largest first as given, each with its number."""
    figure, axes = _figure(title, x, "", height=0.9 + 0.32 * max(1, len(amounts)))
    names = list(amounts)[::-1]
    axes.barh(names, [amounts[name] for name in names], color=COLOURS[0])
    for place, name in enumerate(names):
        axes.text(amounts[name], place, f" {amounts[name]:,.0f}", va="center", color=INK, fontsize=9)
    axes.margins(x=0.15)
    return svg(figure, title)


def svg(figure: Figure, salt: str) -> str:
    """The figure as inline SVG: no declaration, no metadata, no address, ids apart from other pictures'."""
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'width="100%" role="img"', text, count=1)
    return text.replace(INK, "currentColor")


def _legend(figure: Figure, axes: Axes) -> None:
    """Below the axes, where no bar or line lies behind it."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, labelcolor=INK)


def _figure(title: str, x: str, y: str, height: float = 3.1) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.2, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, color=INK, fontsize=12, loc="left")
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.tick_params(colors=INK)
    axes.grid(axis="y", color=GREY, alpha=0.3, lw=0.7)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GREY)
    return figure, axes
