"""`python -m tasks.benchmarks.precision`: what training in bfloat16 (`dtype: bfloat16`) does to what is learned.

The network of `params.yaml` is trained from the same weights on the same batches in fp32, under autocast, and, as the
control, in fp32 from weights changed by a millionth. Arms are processes of their own, several at once. Writes
docs/bf16.md, docs/bf16.png and metrics/bf16.json.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tasks.benchmarks.dsa.material import Material
from tasks.benchmarks.model_speed import machine
from tasks.benchmarks.rounding import page
from tasks.benchmarks.rounding.arm import NAMES, Arm, Plan, described
from tasks.cli import Parser, program, whole
from tasks.config import load_config
from tasks.tracking.metrics import write_metrics

CORPUS = Path("data/corpus")


def run(arms: Sequence[Arm], workers: int) -> dict[str, dict[int, dict[str, Any]]]:
    """{name: {seed: result}}, `workers` arms at once, each in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1) as pool:
        results = list(pool.map(Arm.run, arms))
    return {name: {r["seed"]: r for r in results if r["name"] == name} for name in NAMES}


def write(found: dict[str, dict[int, dict[str, Any]]], setting: dict[str, Any], docs: Path, metrics: Path) -> None:
    """Page, picture and metrics."""
    docs.mkdir(parents=True, exist_ok=True)
    figures = page.summary(found)
    page.draw(found, docs / "bf16.png")
    (docs / "bf16.md").write_text(page.text(figures, setting), encoding="utf-8")
    curves = {name: {str(seed): arm["points"] for seed, arm in runs.items()} for name, runs in found.items()}
    write_metrics(metrics, figures | {"curves": curves, "setting": setting})


@program("tasks.benchmarks.precision")
def main(argv: Sequence[str] | None = None) -> int:
    """Trains every arm and writes the page."""
    parser = Parser(prog="python -m tasks.benchmarks.precision")
    parser.add_argument("--seeds", type=whole(0), nargs="+", default=[11, 12, 13])
    for name, value in described(Plan()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=whole(0), default=value)
    parser.add_argument("--threads", type=whole(1, 4096), default=1, help="of each arm")
    parser.add_argument("--workers", type=whole(1), default=2, help="arms at once")
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--out", type=Path, default=Path("metrics/bf16.json"))
    parser.add_argument("--params", default="params.yaml")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    a = parser.parse_args(argv)
    started, plan = time.monotonic(), replace(Plan(), **{name: getattr(a, name) for name in described(Plan())})
    config = load_config(a.params, a.overrides)
    Material.read(CORPUS)  # before any process starts
    arms = [Arm(name, seed, config, plan, CORPUS, a.threads) for seed in a.seeds for name in NAMES]
    found = run(arms, a.workers)
    minutes = (time.monotonic() - started) / 60
    setting = {"machine": machine(), "threads": a.threads, "torch": torch.__version__, "plan": described(plan)}
    write(found, setting | {"minutes": round(minutes, 1)}, a.docs, a.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
