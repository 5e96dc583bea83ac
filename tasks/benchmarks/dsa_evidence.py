"""`python -m tasks.benchmarks.dsa_evidence`: does DSA, trained as the papers train it, keep what dense attention has?

Trains and scores every arm from the same base, then writes docs/dsa.md, docs/dsa.json and docs/dsa-*.png. The shortest
length runs under every seed, the others under the first. Parts that are there are not made again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from tasks.benchmarks.dsa import page
from tasks.benchmarks.dsa.arms import Score, scores
from tasks.benchmarks.dsa.bench import Bench
from tasks.benchmarks.dsa.compute import curves
from tasks.benchmarks.dsa.findings import Findings
from tasks.benchmarks.dsa.material import Material
from tasks.benchmarks.dsa.networks import Networks
from tasks.benchmarks.dsa.parts import Parts
from tasks.benchmarks.dsa.plan import Plan, Scale, topks
from tasks.benchmarks.dsa.results import Case, Results
from tasks.cli import Parser, program, whole
from tasks.config import load_config
from tasks.training.errors import TrainingDataError

ROOT = Path(".longhaul/evidence-dsa")
CORPUS = Path("data/corpus")
SHORTEST = 80  # tokens: two strings, each twice
SCALES = {"full": Scale, "trial": Scale.trial}


def run(bench: Bench, pairs: Sequence[tuple[int, int]], curve_length: int, docs: Path) -> Findings:
    """All parts of the (seed, length) pairs, then the curves; the page is written after each pair."""
    found: list[Score] = []
    findings = Findings(bench.plan, Results(found))
    started = time.monotonic()
    for number, (seed, length) in enumerate(pairs):
        networks = Networks(bench, seed, length)
        found.extend(scores(networks))
        _add(findings, networks, raw=number == 0)
        if length == curve_length and not findings.curves:
            findings.curves, findings.curve_length = curves(networks), length
        findings.cpu_seconds = bench.parts.seconds
        page.write(findings, docs)
        where, minutes = f"step {number + 1}/{len(pairs)}", (time.monotonic() - started) / 60
        print(f"[evidence-dsa] {where} seed {seed} length {length} is done after {minutes:.1f} min", flush=True)
    return findings


def _add(findings: Findings, networks: Networks, raw: bool) -> None:
    """The warm-up's masses, also without the query norm where `raw`, and what the base could do."""
    for topk in topks(networks.length):
        case = findings.warmed.setdefault(Case(networks.length, topk), {})
        for step, masses in networks.warmed.result["masses"].items():
            case.setdefault(step, []).append([layer["captured"] for layer in masses[str(topk)]])
        if raw:
            last = list(networks.raw.result["masses"].values())[-1][str(topk)]
            findings.raw[Case(networks.length, topk)] = [layer["captured"] for layer in last]
    rounds = networks.long.result["retrieval_after_each_round"]
    findings.retrieval_before[f"{networks.seed}, {networks.length}"] = rounds


def seeds_and_lengths(seeds: Sequence[int], lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Every seed at the shortest length, the first seed at the others. TrainingDataError where one is too short."""
    first, *rest = sorted(set(lengths))
    if first < SHORTEST:
        raise TrainingDataError(
            f"The length {first} is too short for strings that come again; the least is {SHORTEST}."
        )
    return [*((seed, first) for seed in seeds), *((seeds[0], length) for length in rest)]


def _curve_length(wanted: int | None, lengths: Sequence[int]) -> int:
    if wanted is not None and wanted not in lengths:
        raise TrainingDataError(f"The curve's length {wanted} is not one of the lengths {list(lengths)}.")
    return wanted or max(lengths)


@program("tasks.benchmarks.dsa_evidence")
def main(argv: Sequence[str] | None = None) -> int:
    """Measures what is missing and writes the pages."""
    parser = Parser(prog="python -m tasks.benchmarks.dsa_evidence")
    parser.add_argument("--seeds", type=whole(0), nargs="+", default=[11, 12, 13])
    parser.add_argument("--lengths", type=whole(1), nargs="+", default=[1024, 2048, 4096])
    parser.add_argument(
        "--curve-length", type=whole(1), default=None, help="of loss against compute; default: the longest"
    )
    parser.add_argument("--scale", choices=list(SCALES), default="full", help="trial: steps that only show it runs")
    parser.add_argument("--threads", type=whole(1, 4096), default=1)
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--params", default="params.yaml")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    pairs = seeds_and_lengths(arguments.seeds, arguments.lengths)
    plan = Plan(load_config(arguments.params, arguments.overrides), SCALES[arguments.scale]())
    bench = Bench(plan, Material.read(CORPUS), Parts(ROOT))
    run(bench, pairs, _curve_length(arguments.curve_length, arguments.lengths), arguments.docs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
