"""docs/bf16.md, its picture, and the figures both are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy import stats

from tasks.benchmarks.markdown import table
from tasks.benchmarks.rounding.arm import SHAKE
from tasks.statistics import estimate

TITLES = {"fp32": "fp32", "bf16": "bfloat16 products", "shaken": f"fp32, weights changed by {SHAKE:g}"}
Results = Mapping[str, Mapping[int, Mapping[str, Any]]]  # by name and seed, as `Arm.run` returns them


def summary(found: Results) -> dict[str, Any]:
    """Held-out loss of every arm, and each arm's difference from fp32: seed by seed, and over the seeds."""
    arms = {
        name: {str(seed): {"heldout": fmean(arm["final"]), "cpu_seconds": arm["seconds"]} for seed, arm in runs.items()}
        for name, runs in found.items()
    }
    return {
        "arms": arms,
        "difference": {name: difference(found, name) for name in found if name != "fp32"},
        "gradients": {str(seed): arm["gradients"] for seed, arm in found["fp32"].items()},
    }


def difference(found: Results, name: str) -> dict[str, Any]:
    """Held-out loss minus that of fp32, in nats a token.

    Of a seed the interval draws windows; `over_seeds` is Student's interval of the seeds' means, None for one seed.
    """
    seeds, means = {}, []
    for seed, arm in found[name].items():
        pairs = zip(arm["final"], found["fp32"][seed]["final"], strict=True)
        seeds[str(seed)] = estimate([a - b for a, b in pairs]).to_json()
        means.append(float(seeds[str(seed)]["value"]))  # type: ignore[arg-type]
    return {"seeds": seeds, "mean": fmean(means), "over_seeds": student(means)}


def student(values: Sequence[float]) -> list[float] | None:
    """The 95 % interval of the mean of a few normal values."""
    if len(values) < 2:
        return None
    half = float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return [fmean(values) - half, fmean(values) + half]


def text(figures: Mapping[str, Any], setting: Mapping[str, Any]) -> str:
    """The page."""
    plan = setting["plan"]
    return (
        "# Training in bfloat16 next to fp32\n\n"
        f"Written by `python -m tasks.benchmarks.precision` in {setting['minutes']:.0f} minutes on "
        f"{setting['machine']}, {setting['threads']} thread(s) an arm.\n\n"
        "With `dtype: bfloat16` the operands of the large matrix products are rounded to bfloat16 (linear layers, "
        "experts, output layer); activations, norms, routing, index scores, the indexer's loss, softmax, weights and "
        "optimizer stay fp32. Every arm trains the network of `params.yaml` with Muon and AdamW from the same weights "
        f"on the same batches of the curated corpus: {plan['dense_steps']} dense steps, {plan['indexer_steps']} steps "
        f"of the indexer alone, {plan['sparse_steps']} sparse steps. The control is fp32 again from initial weights "
        f"changed by {SHAKE:g} of themselves: what two runs differ by that nobody would call different. Held-out "
        "losses are computed in fp32, in sparse mode, nats a token.\n\n"
        f"![held-out loss](bf16.png)\n\n## Held-out loss at the end\n\n{_losses(figures)}{_said(figures)}"
        f"## Gradients\n\nOf one batch and the same weights (those of fp32), |bf16 - fp32| / |fp32|:\n\n"
        f"{_gradients(figures)}"
    )


def _losses(figures: Mapping[str, Any]) -> str:
    arms, rows = figures["arms"], []
    for seed in arms["fp32"]:
        row = [seed, *(f"{arms[name][seed]['heldout']:.4f}" for name in arms)]
        row += [_interval(figures["difference"][name]["seeds"][seed]) for name in figures["difference"]]
        rows.append([*row, *(f"{arms[name][seed]['cpu_seconds']:.0f}" for name in arms)])
    heads = [TITLES[name] for name in arms]
    minus = [f"{TITLES[name]} - fp32" for name in figures["difference"]]
    return table(["seed", *heads, *minus, *(f"CPU s, {head}" for head in heads)], rows)


def _interval(found: Mapping[str, Any]) -> str:
    low, high = found["ci95"]
    return f"{found['value']:+.4f} [{low:+.4f}, {high:+.4f}]"


def _said(figures: Mapping[str, Any]) -> str:
    lines = ["Intervals (95 %) of a seed draw held-out windows; those over seeds are Student's."]
    for name, found in figures["difference"].items():
        interval, count = found["over_seeds"], len(found["seeds"])
        if interval is None:
            lines.append(f"{TITLES[name]}: {found['mean']:+.4f} with one seed, which allows no interval over seeds.")
            continue
        low, high = interval
        verdict = "holds zero" if low <= 0 <= high else "does not hold zero"
        lines.append(
            f"{TITLES[name]} differs from fp32 by {found['mean']:+.4f} over {count} seeds; the interval "
            f"[{low:+.4f}, {high:+.4f}] {verdict}."
        )
    return "\n".join(lines) + "\n\n"


def _gradients(figures: Mapping[str, Any]) -> str:
    rows = []
    for seed, times in figures["gradients"].items():
        for when, modes in times.items():
            for mode, found in modes.items():
                parts = [f"{found['parts'][part]:.4f}" if part in found["parts"] else "" for part in _parts(figures)]
                rows.append([seed, when, mode, f"{found['error']:.4f}", f"{found['cosine']:.5f}", *parts])
    return table(["seed", "at the", "mode", "all", "cosine", *_parts(figures)], rows)


def _parts(figures: Mapping[str, Any]) -> list[str]:
    first = next(iter(figures["gradients"].values()))
    return sorted({part for modes in first.values() for found in modes.values() for part in found["parts"]})


def draw(found: Results, path: Path) -> None:
    """Held-out loss of every arm, and what each differs from fp32 by, at every look."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4))
    for number, (name, runs) in enumerate(found.items()):
        for order, (seed, arm) in enumerate(runs.items()):
            steps, values = [p["step"] for p in arm["points"]], [p["loss"] for p in arm["points"]]
            label = None if order else TITLES[name]
            left.plot(steps, values, color=f"C{number}", label=label, linestyle=("-", "--", ":")[number % 3])
            if name != "fp32":
                base = [p["loss"] for p in found["fp32"][seed]["points"]]
                gaps = [a - b for a, b in zip(values, base, strict=True)]
                right.plot(steps, gaps, color=f"C{number}", label=label)
    right.axhline(0, color="grey", linewidth=0.8)
    for axis, title in ((left, "held-out loss, nats a token"), (right, "minus that of fp32, seed by seed")):
        axis.set(title=title, xlabel="step")
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
