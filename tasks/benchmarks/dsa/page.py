"""docs/dsa.md, docs/dsa.json and the pictures."""

from __future__ import annotations

from pathlib import Path

from tasks.benchmarks.dsa import pictures, prose, tables
from tasks.benchmarks.dsa.findings import Findings
from tasks.benchmarks.dsa.results import Results
from tasks.tracking.metrics import write_json

HEADING = "# DSA, trained as the papers train it: what it keeps of dense attention"


def write(findings: Findings, folder: Path) -> None:
    """Writes all files into `folder`, complete for what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures.draw_masses(findings.results, findings.warmed, folder / "dsa-mass.png")
    pictures.draw_losses(findings.results, folder / "dsa-loss.png")
    pictures.draw_retrieval(findings.results, folder / "dsa-retrieval.png")
    if findings.curves:
        pictures.draw_curves(findings.curves, findings.curve_length, folder / "dsa-compute.png")
    write_json(folder / "dsa.json", findings.to_json())
    (folder / "dsa.md").write_text(_text(findings), encoding="utf-8")


def _text(findings: Findings) -> str:
    sections = {
        HEADING: prose.introduction(findings),
        "## What was to be shown": tables.targets(findings.targets) + prose.verdict(findings.targets),
        "## Attention mass captured": f"{prose.MASS}![captured mass by layer](dsa-mass.png)\n\n{_masses(findings)}",
        "## Held-out loss": _losses(findings.results),
        "## Retrieval by distance": _retrieval(findings.results),
        "## What a mistake costs": _mistakes(findings),
    }
    if findings.curves:
        sections[f"## Loss against training compute, length {findings.curve_length}"] = _compute(findings)
    return "\n".join(f"{heading}\n\n{text.rstrip()}\n" for heading, text in sections.items())


def _masses(findings: Findings) -> str:
    results, warmed = findings.results, findings.warmed
    return "".join(f"### {tables.title(c)}\n\n{tables.masses(results, c, warmed[c])}" for c in results.cases)


def _losses(results: Results) -> str:
    control = f"The control's own loss, nats a token:\n\n{tables.control_losses(results)}"
    return f"{prose.LOSS}![loss over the control's](dsa-loss.png)\n\n{tables.losses(results)}{control}"


def _retrieval(results: Results) -> str:
    found = "".join(f"### {tables.title(c)}\n\n{tables.retrieval(results, c)}" for c in results.cases)
    return f"{prose.RETRIEVAL}![accuracy by distance](dsa-retrieval.png)\n\n{found}"


def _mistakes(findings: Findings) -> str:
    raw = tables.raw_warmup(findings.warmed, findings.raw)
    return f"{tables.mistakes(findings.results)}{prose.MISTAKES}{raw}"


def _compute(findings: Findings) -> str:
    parts = [prose.CURVES, prose.quick(findings.plan), "![loss against compute](dsa-compute.png)\n\n"]
    for unit, name in (("flops", "FLOPs"), ("seconds", "CPU seconds")):
        for free in (False, True):
            parts.append(f"### By {name}, warm-up {'not charged' if free else 'charged'}\n\n")
            parts.append(tables.curves(findings.curves, unit, free))
            parts.append(prose.winner(findings.curves, unit, free) + "\n")
    return "".join(parts)
