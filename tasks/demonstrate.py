"""Stage `demonstrate`: experts who slip, executed for real, as training data for midtraining.

    python -m tasks.demonstrate [--set demonstrate.slip_rates.shell=0.3]

Writes data/demonstrations/<family>.jsonl (train split), heldout.jsonl (instructions of held-out tasks, against which
the corpus is decontaminated) and manifest.json. The same parameters give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.cli import program
from tasks.config import Config, parse_arguments
from tasks.disk import replacing
from tasks.environments import registry
from tasks.environments.task import Task
from tasks.environments.warm_box import WarmBox
from tasks.tracking import experiment
from tasks.tracking.metrics import process_seconds, write_metrics

OUT = Path("data/demonstrations")
CHUNK = 250  # tasks a worker takes at once, in one box
KEPT_OUTPUT = 400  # characters of a command's output that a demonstration keeps


@dataclass(frozen=True)
class Job:
    """A run of train seeds of one family, for one worker."""

    family: str
    first_seed: int
    tasks: int
    slip_rate: float
    seed: int


Demonstration = dict[str, Any]
METRICS = Path("metrics/demonstrate.json")


@program("demonstrate")
def main(argv: Sequence[str] | None = None) -> int:
    """`python -m tasks.demonstrate [--set key=value ...]`."""
    config = parse_arguments("demonstrate", argv)
    summary = run(config)
    with experiment.run("demonstrate", config) as tracker:
        tracker.summary(summary)
    return 0


def run(config: Config, out: Path = OUT, metrics: Path = METRICS) -> dict[str, Any]:
    """Builds the folder beside `out` and puts it there when it is complete. Returns the metrics."""
    start = time.monotonic()
    with replacing(out) as building:
        summaries = _build(building, config, start)
    shares = ", ".join(f"{family} {summary['success']:.2f}" for family, summary in summaries.items())
    found = {"seconds": process_seconds(), **summaries}
    write_metrics(metrics, found)
    print(f"[demonstrate] done in {time.monotonic() - start:.1f} s; share that succeeded: {shares}", flush=True)
    return found


def _build(building: Path, config: Config, start: float) -> dict[str, dict[str, Any]]:
    wanted = config.demonstrate
    progress = _progress(sum(wanted.counts.values()), start)
    with ProcessPoolExecutor(max(1, min(2, os.cpu_count() or 1))) as pool:
        summaries = {
            family: _write_family(building, family, count, config, pool, progress)
            for family, count in sorted(wanted.counts.items())
        }
    _write_heldout(building / "heldout.jsonl", config)
    _write_manifest(building, config, summaries)
    return summaries


def demonstrate(task: Task, commands: Sequence[str], box: WarmBox) -> Demonstration:
    """Runs the commands in /work filled with the task's files; records what they printed and how it ended."""
    box.reset(task.files)
    turns = []
    for command in commands:
        output, code = box.run(command)
        turns.append({"command": command, "output": output[:KEPT_OUTPUT], "exit_code": code})
    return {
        "task_id": task.id, "family": task.family, "seed": task.seed, "split": task.split,
        "instruction": task.instruction, "turns": turns,
        "success": registry.family(task.family).solved(task, box.state()),
    }  # fmt: skip


def work(job: Job) -> list[tuple[str, Demonstration]]:
    """(content hash, demonstration) of each task of a job, in one warm box."""
    results = []
    with WarmBox() as box:
        for number in range(job.first_seed, job.first_seed + job.tasks):
            task = registry.generate(job.family, number, "train")
            rng = random.Random(f"expert/{job.seed}/{task.id}")
            commands = registry.expert(task, rng, job.slip_rate)
            results.append((task.content_hash, demonstrate(task, commands, box)))
    return results


def _progress(total: int, start: float) -> Callable[[int], None]:
    done = 0

    def report(more: int) -> None:
        nonlocal done
        done += more
        rate = done / max(time.monotonic() - start, 1e-9)
        eta = max(0, total - done) / max(rate, 1e-9)
        print(f"[demonstrate] step {min(done, total)}/{total} tasks/s {rate:.0f} eta {eta:.0f}s", flush=True)

    return report


def _write_family(
    folder: Path, family: str, count: int, config: Config, pool: Executor, progress: Callable[[int], None]
) -> dict[str, Any]:
    """Writes `count` demonstrations of different tasks; equal tasks of later seeds are left out."""
    kept: dict[str, Demonstration] = {}
    first = 0
    while len(kept) < count:
        if first >= registry.MOST_SEEDS * count:
            raise registry.too_few(family, "train", count, len(kept), first)
        missing = count - len(kept)
        jobs = list(_jobs(family, first, missing, config))
        for job, results in zip(jobs, pool.map(work, jobs), strict=True):
            for content_hash, demonstration in results:
                kept.setdefault(content_hash, demonstration)
            progress(job.tasks)
        first += missing
    demonstrations = list(kept.values())[:count]
    _write_lines(folder / f"{family}.jsonl", demonstrations)
    return _summary(demonstrations)


def _jobs(family: str, first: int, count: int, config: Config) -> Iterator[Job]:
    for start in range(first, first + count, CHUNK):
        size = min(CHUNK, first + count - start)
        yield Job(family, start, size, config.demonstrate.slip_rates.get(family, 0.0), config.seed)


def _summary(demonstrations: Sequence[Demonstration]) -> dict[str, Any]:
    codes = [[turn["exit_code"] for turn in demonstration["turns"]] for demonstration in demonstrations]
    succeeded = [bool(demonstration["success"]) for demonstration in demonstrations]
    total = max(1, len(demonstrations))
    recovered = sum(any(exits) and success for exits, success in zip(codes, succeeded, strict=True))
    return {
        "demonstrations": len(demonstrations),
        "success": round(sum(succeeded) / total, 4),
        "recovered_from_an_error": round(recovered / total, 4),
        "commands": sum(map(len, codes)),
    }


def _write_heldout(path: Path, config: Config) -> None:
    keys = ("id", "family", "seed", "split", "instruction")
    rows = [{("task_id" if key == "id" else key): getattr(task, key) for key in keys} for task in heldout_tasks(config)]
    _write_lines(path, rows)


def heldout_tasks(config: Config) -> list[Task]:
    """The tasks that the corpus must not hold: `demonstrate.heldout` for each use and all that the stages measure."""
    used = {"monitoring": config.reinforce.evaluation, "evaluation": config.evaluate.tasks}
    first = {"monitoring": 0, "evaluation": config.evaluate.first_seed}
    found: dict[str, Task] = {}
    for use in registry.USES:
        for family in sorted({*config.demonstrate.counts, *used[use]}):
            listed = registry.heldout(family, use, config.demonstrate.heldout)
            measured = registry.heldout(family, use, used[use].get(family, 0), first[use])
            found |= {task.id: task for task in (*listed, *measured)}
    return list(found.values())


def _write_manifest(folder: Path, config: Config, summaries: Mapping[str, Any]) -> None:
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.jsonl"))}
    manifest = {"format": 1, "seed": config.seed, "parameters": asdict(config.demonstrate), "families": summaries}
    text = json.dumps({**manifest, "sha256": files}, indent=2) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
