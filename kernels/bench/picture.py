"""The table as bars: a kernel next to what it is measured against."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kernels.bench.measure import KERNEL
from kernels.bench.report import Report


def draw(report: Report, path: Path) -> Path:
    """Milliseconds of every row, on a logarithmic axis."""
    rows = [(r, r.timing) for r in report.rows if r.timing]
    figure = Figure(figsize=(11, 1.5 + 0.24 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    labels = [f"{r.operation} {' '.join(f'{k}{v}' for k, v in r.shape.items())}: {r.candidate}" for r, _ in rows]
    colours = ["tab:blue" if r.candidate == KERNEL else "tab:gray" for r, _ in rows]
    axes.barh(range(len(rows)), [t.median for _, t in rows], color=colours)
    axes.set_yticks(range(len(rows)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds, median")
    axes.set_title(f"{report.device}, {report.date}")
    figure.savefig(path, dpi=150)
    return path
