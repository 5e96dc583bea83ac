"""`python -m tests.fuzz [TARGET ...]`: tries bad input on every reader of ours, one process a target.

    make fuzz                                           # 100,000 inputs of all kinds
    python -m tests.fuzz params --inputs 5000 --seed 2
    python -m tests.fuzz params --replay .longhaul/fuzz/params/0

An input must be accepted with a result that makes sense, or refused with status 2 and one sentence that names the
file, key or line. Anything else is a violation: the smallest input is kept below --out, from where it is replayed.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

from tasks.cli import Parser, program, seconds, whole
from tasks.errors import InputError
from tests.fuzz.hunt import Report, Violation, hunt, judge

SHARE = {  # of the inputs; a reader of YAML or of a whole network takes milliseconds, one of JSON microseconds
    "params": 2, "set": 2, "corpus": 10, "jsonl": 10, "parquet": 6, "files": 6, "demonstrations": 8, "config": 6,
    "tokenizer": 4, "safetensors": 6, "index": 4, "task": 6, "cases": 6, "trajectory": 10, "run": 6, "samples": 4,
    "metrics": 6, "lock": 2, "servers": 6,
}  # fmt: skip


def line(report: Report) -> str:
    """A report's line of the table."""
    return (
        f"{report.target:16}{report.inputs:9,}{report.accepted:10,}{report.refused:10,}"
        f"{len(report.violations):12,}{report.seconds:9.0f}"
    )


def replay(name: str, folder: Path) -> int:
    """Reads a kept input again, in a copy; 1 where it is still a violation."""
    from tests.fuzz.targets import TARGETS

    with tempfile.TemporaryDirectory() as scratch:
        copy = shutil.copytree(folder, Path(scratch) / "case", symlinks=True)
        outcome = judge(TARGETS[name](), Path(copy))
    print(outcome.what or ("accepted" if outcome.accepted else "refused with one sentence"))
    return int(bool(outcome.what))


def alone(name: str, inputs: int, limit: float, start: int, keep: Path) -> Report:
    """One target in a process of its own, which an input may kill."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(hunt, name, inputs, limit, start, keep).result()
        except BrokenExecutor:
            return Report(name, violations=[Violation("the process was killed by an input")])


def run(names: Sequence[str], inputs: int, limit: float, start: int, keep: Path, jobs: int) -> list[Report]:
    """All targets, `jobs` at a time; prints a line when one is done."""
    total = sum(SHARE[name] for name in names)
    found = []
    print(f"{'target':16}{'inputs':>9}{'accepted':>10}{'refused':>10}{'violations':>12}{'seconds':>9}", flush=True)
    with ThreadPoolExecutor(jobs) as pool:
        parts = [-(-inputs * SHARE[name] // total) for name in names]
        for report in pool.map(lambda name, part: alone(name, part, limit, start, keep), names, parts):
            found.append(report)
            print(line(report), flush=True)
    return found


@program("fuzz")
def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 where a reader misbehaved."""
    parser = Parser(prog="python -m tests.fuzz")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(SHARE)}; all where none is named")
    parser.add_argument("--inputs", type=whole(1), default=100_000, help="of all targets together")
    parser.add_argument("--seconds", type=seconds, default=600.0, help="the most for each target")
    parser.add_argument("--seed", type=whole(0), default=1)
    parser.add_argument("--jobs", type=whole(1, 256), default=os.cpu_count() or 1, help="targets side by side")
    parser.add_argument("--out", type=Path, default=Path(".longhaul/fuzz"), help="where the smallest inputs are kept")
    parser.add_argument("--replay", type=Path, help="read this kept input of the one target again")
    given = parser.parse_args(argv)
    unknown = sorted(set(given.targets) - SHARE.keys())
    if unknown:
        raise InputError(f"There is no target {unknown[0]!r}; the targets are {', '.join(SHARE)}.")
    if given.replay is not None:
        if len(given.targets) != 1 or not given.replay.is_dir():
            raise InputError(f"A replay needs one target and a folder, and {given.replay} is to be replayed.")
        return replay(given.targets[0], given.replay)
    names = given.targets or list(SHARE)
    keep = given.out.resolve()
    found = run(names, given.inputs, given.seconds, given.seed, keep, given.jobs)
    print(line(Report("all", *(sum(getattr(r, key) for r in found) for key in ("inputs", "accepted", "refused")),
                      max(r.seconds for r in found), [v for r in found for v in r.violations])))  # fmt: skip
    for report in found:
        for violation in report.violations:
            print(f"\n{report.target}: {violation.what}\n  input {violation.case[:400]}\n  kept in {violation.folder}")
    return int(any(report.violations for report in found))


if __name__ == "__main__":
    sys.exit(main())
