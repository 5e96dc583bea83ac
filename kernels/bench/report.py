"""What was measured, as a table and as JSON."""

from __future__ import annotations

import datetime
import json
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton

from kernels.bench.ceilings import Ceilings
from kernels.bench.check import Verdict
from kernels.bench.measure import KERNEL, Row

RESULTS = Path(__file__).parents[1] / "results"


@dataclass
class Report:
    """All of one run. verdicts: by operation; a sentence where the kernel did not run."""

    device: str
    ceilings: Ceilings
    date: str = field(default_factory=lambda: datetime.date.today().isoformat())
    verdicts: dict[str, Verdict | str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def share(self, row: Row) -> float:
        """Of the measured ceiling: of the matrix product's rate or of the copy's, the one the row is nearer to."""
        return max(row.tflops / self.ceilings.tflops, row.gbps / self.ceilings.gbps)

    def failed(self) -> list[str]:
        """The operations whose kernel is wrong or broke."""
        return [name for name, v in self.verdicts.items() if _failed(v)]


def _failed(verdict: Verdict | str) -> bool:
    return verdict.startswith("The kernel failed") if isinstance(verdict, str) else not verdict.passed


def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    return {
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": str(torch.version.cuda),
        "python": platform.python_version(),
    }


def text(report: Report) -> str:
    """The checks, then one line a candidate and shape, then where sparse attention overtakes dense."""
    c = report.ceilings
    head = f"{report.device}: {c.tflops:.0f} TFLOPS of matrix product, {c.gbps:.0f} GB/s of copy"
    return "\n".join([head, "", *_checks(report), "", *_table(report), *_crossovers(report.rows)])


def _checks(report: Report) -> list[str]:
    lines = []
    for name, v in report.verdicts.items():
        if isinstance(v, str):
            lines.append(f"{name:30} {v}")
        else:
            verdict = "right" if v.passed else "WRONG"
            lines.append(f"{name:30} {verdict}: error {v.kernel:.1e}, plain torch {v.plain:.1e}")
    return lines


def _table(report: Report) -> list[str]:
    head = f"{'operation':28} {'shape':44} {'candidate':34} {'ms':>9} {'10-90 %':>17} {'TFLOPS':>7} {'GB/s':>6}"
    lines = [f"{head} {'share':>6} {'kernel is':>9}"]
    for row in report.rows:
        shape = " ".join(f"{k}{v}" for k, v in row.shape.items())
        start = f"{row.operation:28} {shape:44} {row.candidate:34}"
        if row.timing is None:
            lines.append(f"{start} {row.note}")
            continue
        t, ratio = row.timing, _ratio(report.rows, row)
        spread = f"{t.low:.3f}-{t.high:.3f}"
        lines.append(
            f"{start} {t.median:9.3f} {spread:>17} {row.tflops:7.1f} {row.gbps:6.0f} {report.share(row):6.1%} "
            + (f"{ratio:8.2f}x" if ratio else "")
        )
    return lines


def _ratio(rows: Sequence[Row], row: Row) -> float:
    """How many times as fast as this candidate the kernel is; 0 for the kernel itself."""
    same = [r for r in rows if (r.operation, r.shape, r.candidate) == (row.operation, row.shape, KERNEL) and r.timing]
    if row.candidate == KERNEL or not same or not row.timing or not same[0].timing:
        return 0.0
    return row.timing.median / same[0].timing.median


def _crossovers(rows: Sequence[Row]) -> list[str]:
    """For each operation measured at several lengths next to dense attention: where the kernel overtakes it."""
    lines = []
    for name in dict.fromkeys(r.operation for r in rows if r.operation.startswith("attention.")):
        ratios = {
            r.shape["S"]: _ratio(rows, r) for r in rows if r.operation == name and r.candidate.startswith("dense")
        }
        faster = [length for length, ratio in sorted(ratios.items()) if ratio > 1]
        if any(ratios.values()):
            where = f"from {faster[0]} tokens" if faster else "at no length measured"
            lines.append(f"{name}: DSA is faster than dense attention {where}.")
    return lines and ["", *lines]


def as_json(report: Report) -> dict[str, Any]:
    """Everything, with the shares."""
    return {
        "device": report.device,
        "date": report.date,
        "versions": versions(),
        "ceilings": asdict(report.ceilings),
        "checks": {k: v if isinstance(v, str) else asdict(v) for k, v in report.verdicts.items()},
        "rows": [asdict(r) | {"share": report.share(r), "kernel_is": _ratio(report.rows, r)} for r in report.rows],
    }


def default_path(report: Report) -> Path:
    """kernels/results/<chip>-<date>.json."""
    chip = re.sub(r"[^a-z0-9]+", "-", report.device.lower()).strip("-")
    return RESULTS / f"{chip}-{report.date}.json"


def write(report: Report, path: Path) -> Path:
    """The JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(as_json(report), indent=1) + "\n")
    return path
