"""`python -m tasks.benchmarks.evidence`: does each part of the recipe earn its place? Three fresh seeds an arm.

Writes docs/evidence.md (tables), docs/evidence.png and docs/evidence.json. What came out negative is in the tables
like the rest: nothing here looks at a number before it writes it down.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tasks.benchmarks.arms import Evidence, settings_hash
from tasks.benchmarks.markdown import table
from tasks.cli import Parser, program, whole
from tasks.config import load_config
from tasks.statistics import Estimate, paired_difference, proportion

ROOT = Path(".longhaul/evidence")
DOCS = Path("docs")
TITLES = {
    "midtrained": "after midtraining",
    "rl": "+ RL, the judge's rewards",
    "random": "+ RL, random rewards (control)",
    "finetuned": "+ more fine-tuning (control)",
    "scratch": "midtraining without pretraining",
}
COMPARISONS = (
    ("rl", "midtrained", "RL over its start"),
    ("random", "midtrained", "random rewards over their start"),
    ("finetuned", "midtrained", "more fine-tuning over its start"),
    ("rl", "random", "RL over random rewards"),
    ("rl", "finetuned", "RL over more fine-tuning"),
    ("midtrained", "scratch", "pretraining, at the same midtraining steps"),
)
KINDS = ("solved", "solved_greedy")  # at temperature 1 and greedy
Scores = Mapping[int, Mapping[str, Any]]


def pooled(scores: Scores, model: str, family: str, kind: str) -> Estimate:
    """Share solved over all seeds; the interval draws whole tasks, which are the same under every seed."""
    values = [solved for seed in scores for solved in scores[seed][model][family][kind]]
    return proportion(values, _tasks(scores, model, family, kind))


def difference(scores: Scores, first: str, second: str, family: str, kind: str) -> Estimate:
    """Mean of first - second over the same tasks and sampling seeds of every seed."""
    after, before = (
        [solved for seed in scores for solved in scores[seed][model][family][kind]] for model in (first, second)
    )
    return paired_difference(before, after, _tasks(scores, first, family, kind))


def _tasks(scores: Scores, model: str, family: str, kind: str) -> list[int]:
    """The task's number of every episode, seed after seed."""
    return [task for seed in scores for task in range(len(scores[seed][model][family][kind]))]


def tables(scores: Scores, families: Sequence[str]) -> str:
    """All scores and all differences as Markdown."""
    columns = [f"{family} {how}" for family in families for how in ("T=1", "greedy")]
    seeds = [f"seed {seed}" for seed in scores]
    models = [[title, *_cells(scores, model, families)] for model, title in TITLES.items()]
    gains = [[title, *_gain_cells(scores, first, second, families)] for first, second, title in COMPARISONS]
    return (
        table(["model", *columns], models)
        + "### Differences, paired by task and sampling seed\n\n" + table(["comparison", *columns], gains)
        + "### Seed by seed, T=1\n\n"
        + table(["family", "model", *seeds], [row for family in families for row in _seed_rows(scores, family)])
        + table(["family", "comparison", *seeds], [row for family in families for row in _seed_gains(scores, family)])
    )  # fmt: skip


def _cells(scores: Scores, model: str, families: Sequence[str]) -> list[str]:
    return [_text(pooled(scores, model, family, kind)) for family in families for kind in KINDS]


def _gain_cells(scores: Scores, first: str, second: str, families: Sequence[str]) -> list[str]:
    return [_text(difference(scores, first, second, family, kind), "+") for family in families for kind in KINDS]


def _seed_rows(scores: Scores, family: str) -> list[list[str]]:
    values = {model: [scores[seed][model][family]["pass_at_1"]["value"] for seed in scores] for model in TITLES}
    return [[family, title, *(f"{value:.3f}" for value in values[model])] for model, title in TITLES.items()]


def _seed_gains(scores: Scores, family: str) -> list[list[str]]:
    def gain(seed: int, first: str, second: str) -> str:
        return f"{difference({seed: scores[seed]}, first, second, family, KINDS[0]).value:+.3f}"

    return [[family, title, *(gain(seed, first, second) for seed in scores)] for first, second, title in COMPARISONS]


def _text(found: Estimate, sign: str = "") -> str:
    low, high = found.ci95
    return f"{found.value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}] n={found.n}"


def draw(scores: Scores, families: Sequence[str], path: Path) -> None:
    """One panel a family: every model at T=1 and greedy, with intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(families), figsize=(5 * len(families), 3.6), sharey=True, squeeze=False)
    for axis, family in zip(axes[0], families, strict=True):
        for offset, (kind, label) in enumerate(zip(KINDS, ("T=1", "greedy"), strict=True)):
            found = [pooled(scores, model, family, kind) for model in TITLES]
            places = [index + 0.36 * (offset - 0.5) for index in range(len(found))]
            errors = [[f.value - f.ci95[0] for f in found], [f.ci95[1] - f.value for f in found]]
            axis.barh(places, [f.value for f in found], 0.34, xerr=errors, label=label, capsize=2)
        axis.set_title(f"{family}, {len(scores)} seeds")
        axis.set_xlabel("held-out pass@1, 95 % interval")
        axis.set_yticks(range(len(TITLES)), list(TITLES.values()))
    axes[0][0].invert_yaxis()
    axes[0][-1].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def durations(seconds: Mapping[int, Mapping[str, float]]) -> str:
    """What RL and its controls cost, for the claim of equal compute."""
    names = next(iter(seconds.values()))
    rows = [[TITLES[name], *(f"{found[name]:.0f}" for found in seconds.values())] for name in names]
    head = ["arm", *(f"seed {seed}" for seed in seconds)]
    return "### Processor seconds of the stage and all that it started\n\n" + table(head, rows)


def write(scores: Scores, seconds: Mapping[int, Mapping[str, float]], families: Sequence[str]) -> None:
    """The page, the picture and the raw figures."""
    DOCS.mkdir(exist_ok=True)
    draw(scores, families, DOCS / "evidence.png")
    (DOCS / "evidence.json").write_text(json.dumps(scores) + "\n", encoding="utf-8")
    text = (
        "# Evidence\n\nWritten by `make evidence`; parts that are there are not run again.\n\n"
        f"Seeds {', '.join(str(seed) for seed in scores)}: pretraining, midtraining and RL are run anew for each; the"
        " curated data is the same. Every model is scored on the same held-out tasks and sampling seeds; n counts"
        " episodes over all seeds. 95 % bootstrap intervals draw whole tasks: they hold for these seeds, and how far"
        " seeds differ is in the tables seed by seed. Random rewards had the same number of updates as the judge's;"
        " more fine-tuning had the same processor time.\n\n"
        f"![scores of every arm](evidence.png)\n\n{tables(scores, families)}{durations(seconds)}"
    )
    (DOCS / "evidence.md").write_text(text.rstrip() + "\n", encoding="utf-8")


@program("tasks.benchmarks.evidence")
def main(argv: Sequence[str] | None = None) -> int:
    """Runs what is missing of every seed, then writes the page from all seeds that are complete."""
    parser = Parser(prog="python -m tasks.benchmarks.evidence")
    parser.add_argument("--seeds", type=whole(0), nargs="+", default=[11, 12, 13])
    parser.add_argument("--jobs", type=whole(1), default=os.cpu_count() or 1, help="seeds side by side")
    parser.add_argument("--tasks", default="{shell: 200, chain: 100, repair: 100}", help="held-out tasks a family")
    arguments = parser.parse_args(argv)
    scoring = (f"evaluate.tasks={arguments.tasks}", "evaluate.samples=1")
    root = ROOT / settings_hash(load_config(overrides=scoring), scoring)
    threads = max(1, (os.cpu_count() or 1) // arguments.jobs)
    run([Evidence(root, seed, scoring, threads) for seed in arguments.seeds], arguments.jobs)
    return 0


def run(seeds: Sequence[Evidence], jobs: int) -> None:
    """The page is written anew whenever a seed is complete; a seed that fails does not stop the others."""
    failed: list[BaseException] = []
    scores: dict[int, Any] = {}
    seconds: dict[int, Any] = {}
    with ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(_arms_of, evidence): evidence.seed for evidence in seeds}
        for done in as_completed(running):
            if error := done.exception():
                print(f"[evidence] seed {running[done]} stopped: {error}", file=sys.stderr, flush=True)
                failed.append(error)
                continue
            scores[running[done]], seconds[running[done]] = done.result()
            write(dict(sorted(scores.items())), dict(sorted(seconds.items())), list(scores[running[done]]["rl"]))
            print(f"[evidence] step {len(scores)}/{len(seeds)} docs/evidence.md is written", flush=True)
    if failed:
        raise failed[0]


def _arms_of(evidence: Evidence) -> tuple[dict[str, Any], dict[str, float]]:
    evidence.run_arms()
    return evidence.scores(), evidence.seconds()


if __name__ == "__main__":
    sys.exit(main())
