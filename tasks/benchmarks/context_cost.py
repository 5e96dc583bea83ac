"""`python -m tasks.benchmarks.context_cost`: what a longer context costs, dense and sparse.

Forward, forward and backward, one decode step, and attention alone, each length in a process of its own. Writes
metrics/context_cost.json, docs/context-cost.md and docs/context-cost.png.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tasks.benchmarks.context import page
from tasks.benchmarks.context.fits import crossover, expected, exponent
from tasks.benchmarks.context.works import WORKS
from tasks.benchmarks.model_speed import machine
from tasks.cli import Parser, program, seconds, whole
from tasks.config import load_config
from tasks.errors import MachineError
from tasks.tracking.metrics import write_metrics

MODES = ("dense", "sparse")


class CellError(MachineError):
    """The process of one measurement failed; the message holds its last line."""


@dataclass(frozen=True)
class Settings:
    """How everything is measured; seconds of wall time."""

    works: Sequence[str]
    lengths: Sequence[int]
    topk: int
    threads: int
    budget: float  # a cell, after its first call
    limit: float  # expected seconds of one call above which a cell is skipped
    overrides: Sequence[str]


def run(settings: Settings) -> dict[str, Any]:
    """The content of metrics/context_cost.json."""
    works, cells_ = settings.works, _cells(settings)
    found: dict[str, Any] = {what: {mode: {} for mode in MODES} for what in works}
    for number, (what, mode, length) in enumerate(cells_):
        cells = found[what][mode]
        cells[str(length)] = cell = _measured(settings, what, mode, length, cells)
        said = cell.get("skipped") or f"{1000 * cell['seconds']:.3g} ms, {cell['peak_mib']:.0f} MiB"
        print(f"[bench-context] step {number + 1}/{len(cells_)} {what} {mode} {length}: {said}", flush=True)
    costs = {what: {mode: page.seconds(found[what][mode]) for mode in MODES} for what in works}
    found["fits"] = {what: {mode: exponent(costs[what][mode]) for mode in MODES} for what in works}
    found["crossover"] = {what: crossover(costs[what]["dense"], costs[what]["sparse"]) for what in works}
    return found | {"setting": _setting(settings)}


def _cells(settings: Settings) -> list[tuple[str, str, int]]:
    return [(what, mode, length) for what in settings.works for length in settings.lengths for mode in MODES]


def _measured(settings: Settings, what: str, mode: str, length: int, before: dict[str, Any]) -> dict[str, Any]:
    """The cell, or why it is skipped, judged by the two lengths below it."""
    reason = _reason(settings, length, before)
    if reason:
        return {"skipped": reason}
    program = [sys.executable, "-m", "tasks.benchmarks.context.cell", "--what", what, "--mode", mode]
    program += ["--length", str(length), "--topk", str(settings.topk), "--budget", str(settings.budget)]
    program += ["--threads", str(settings.threads), *(w for value in settings.overrides for w in ("--set", value))]
    environment = os.environ | {"OMP_NUM_THREADS": str(settings.threads)}
    done = subprocess.run(program, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise CellError(f"The measurement of {what}, {mode}, at {length} ended with {done.returncode}: {last}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def _reason(settings: Settings, length: int, before: dict[str, Any]) -> str | None:
    """Why this length is not measured: too slow, or more memory than there is."""
    if any("skipped" in cell for cell in before.values()):
        return "a shorter context was skipped already."
    seconds = expected(page.seconds(before), length)
    memory = expected({int(n): max(cell["peak_mib"], 1.0) for n, cell in before.items()}, length)
    free = psutil.virtual_memory().available / 2**20
    if seconds is not None and seconds > settings.limit:
        return f"about {seconds:.0f} s a call are expected from the lengths below, more than {settings.limit:.0f} s."
    if memory is not None and memory > 0.8 * free:
        return f"about {memory / 1024:.1f} GiB are expected from the lengths below, and {free / 1024:.1f} GiB are free."
    return None


def _setting(settings: Settings) -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "threads": settings.threads,
        "topk": settings.topk,
        "budget_seconds": settings.budget,
        "limit_seconds": settings.limit,
    }


@program("tasks.benchmarks.context_cost")
def main(argv: Sequence[str] | None = None) -> int:
    """Measures every cell and writes the page."""
    parser = Parser(prog="python -m tasks.benchmarks.context_cost")
    parser.add_argument("--works", nargs="+", choices=list(WORKS), default=list(WORKS))
    parser.add_argument("--lengths", type=whole(1), nargs="+", default=[512, 1024, 2048, 4096, 8192, 16384])
    parser.add_argument("--topk", type=whole(1), default=None, help="default: model.index_topk of params.yaml")
    parser.add_argument("--threads", type=whole(1, 4096), default=1)
    parser.add_argument("--budget", type=seconds, default=5.0, help="seconds of repeated calls a cell")
    parser.add_argument("--limit", type=seconds, default=60.0, help="a call expected to take longer is skipped")
    parser.add_argument("--out", type=Path, default=Path("metrics/context_cost.json"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    a = parser.parse_args(argv)
    topk = a.topk or load_config(overrides=a.overrides).model_config().index_topk
    found = run(Settings(a.works, sorted(set(a.lengths)), topk, a.threads, a.budget, a.limit, a.overrides))
    write_metrics(a.out, found)
    page.write(found, a.docs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
