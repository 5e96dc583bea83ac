"""docs/context-cost.md and its picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.benchmarks.markdown import table

TITLES = {
    "forward": "forward (log-probabilities of one row)",
    "training": "forward and backward (one row, indexer's loss included in sparse mode, no optimizer)",
    "decode": "one decode step of the engine behind so many cached tokens",
    "core_forward": "attention of one layer alone, forward",
    "core_training": "attention of one layer alone, forward and backward",
}
TARGET = 1.2  # exponent of the sparse core


def seconds(cells: Mapping[str, Any]) -> dict[int, float]:
    """Those measured, by length."""
    return {int(length): cell["seconds"] for length, cell in cells.items() if "seconds" in cell}


def write(found: Mapping[str, Any], folder: Path) -> None:
    """The page and docs/context-cost.png."""
    folder.mkdir(parents=True, exist_ok=True)
    draw(found, folder / "context-cost.png")
    parts = [_introduction(found["setting"]), "![cost against context](context-cost.png)\n", _targets(found)]
    parts += [_section(found, what) for what in TITLES if what in found]
    (folder / "context-cost.md").write_text("\n".join(parts), encoding="utf-8")


def _introduction(setting: Mapping[str, Any]) -> str:
    return (
        "# Cost against context\n\n"
        f"Written by `make bench-context` on {setting['machine']}, {setting['threads']} thread(s), fp32, "
        f"{setting['date']}. The network of `params.yaml` without its MTP layer, top-k {setting['topk']}, one row. "
        "Each cell ran in a process of its own: seconds are the median of its calls, MiB the peak of its resident "
        "memory (VmHWM) beyond what it held before the first call. Exponents are slopes of log seconds over log "
        "length, by least squares over the upper half of the lengths measured.\n"
    )


def _targets(found: Mapping[str, Any]) -> str:
    rows = []
    for what in ("core_forward", "core_training"):
        if what not in found:
            continue
        value = found["fits"][what]["sparse"]
        outcome = "not measured" if value is None else "met" if value <= TARGET else "**missed**"
        rows.append([TITLES[what], _number(value, "{:.2f}"), f"<= {TARGET}", outcome])
    return table(["sparse core", "exponent", "target", ""], rows)


def _section(found: Mapping[str, Any], what: str) -> str:
    cells, fits = found[what], found["fits"][what]
    rows = []
    for length in cells["dense"]:
        dense, sparse = cells["dense"][length], cells["sparse"][length]
        both = "seconds" in dense and "seconds" in sparse
        ratio = f"{dense['seconds'] / sparse['seconds']:.2f}" if both else ""
        rows.append([length, *_cell(dense), *_cell(sparse), ratio])
    exponents = [_number(fits[mode], "{:.2f}") for mode in ("dense", "sparse")]
    rows.append(["exponent", exponents[0], "", exponents[1], "", ""])
    head = ["context", "dense, ms", "dense, MiB", "sparse, ms", "sparse, MiB", "dense / sparse"]
    return f"## {TITLES[what][0].upper()}{TITLES[what][1:]}\n\n{table(head, rows)}{_said(found, what)}"


def _cell(cell: Mapping[str, Any]) -> list[str]:
    if "skipped" in cell:
        return ["skipped", ""]
    return [f"{1000 * cell['seconds']:.3g}", f"{cell['peak_mib']:.0f}"]


def _said(found: Mapping[str, Any], what: str) -> str:
    cross = found["crossover"][what]
    said = (
        "Sparse is not faster at the longest context that both were measured at."
        if cross is None
        else f"Sparse is faster from a context of about {cross:.0f} on."
    )
    skipped = {
        f"{mode} at {length}: {cell['skipped']}"
        for mode in ("dense", "sparse")
        for length, cell in found[what][mode].items()
        if "skipped" in cell
    }
    return " ".join([said, *(f"Skipped, {reason}" for reason in sorted(skipped))]) + "\n"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Seconds against context, both axes logarithmic, a panel a work."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    works = [what for what in TITLES if what in found]
    figure, axes = pyplot.subplots(1, len(works), figsize=(4 * len(works), 3.6), squeeze=False)
    for axis, what in zip(axes[0], works, strict=True):
        for mode in ("dense", "sparse"):
            costs, slope = seconds(found[what][mode]), found["fits"][what][mode]
            label = mode if slope is None else f"{mode}, exponent {slope:.2f}"
            axis.loglog(list(costs), [1000 * value for value in costs.values()], "o-", markersize=3, label=label)
        axis.set_title(what.replace("_", " "), fontsize=9)
        axis.set_xlabel("context")
        axis.legend(fontsize=8)
    axes[0][0].set_ylabel("ms")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
