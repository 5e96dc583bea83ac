"""`python -m tasks.benchmarks.context.cell`: seconds and peak memory of one work, in a process of its own.

Peak memory is this process's largest resident set (VmHWM in /proc/self/status) beyond what it held before the first
call: interpreter, libraries, weights and inputs are in both. It ends with one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from tasks.benchmarks.context.works import DECODE_STEPS, WORKS, Work
from tasks.cli import Parser, program, seconds, whole
from tasks.config import load_config

STATUS = Path("/proc/self/status")
CALLS = 50  # at most


def resident(field: str) -> float:
    """VmRSS or VmHWM of this process in MiB."""
    line = next(line for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def measure(what: str, mode: str, length: int, topk: int, budget: float, overrides: list[str]) -> dict[str, float]:
    """Median seconds of the calls that fit into `budget` seconds after one to warm up.

    A first call of less than a second is followed by one more in any case; where none follows, it counts itself.
    """
    config = replace(
        load_config(overrides=overrides).model_config(), num_nextn_predict_layers=0, index_topk=topk,
        max_position_embeddings=length,
    )  # fmt: skip
    work = WORKS[what](config, mode, length)
    before = resident("VmRSS")
    seconds = [_timed(work)]
    while len(seconds) < CALLS and (sum(seconds) + seconds[-1] < budget or (len(seconds) == 1 and seconds[0] < 1)):
        seconds.append(_timed(work))
    share = DECODE_STEPS if what == "decode" else 1
    found = median(seconds[1:] or seconds) / share
    return {"seconds": found, "peak_mib": resident("VmHWM") - before, "calls": len(seconds)}


def _timed(work: Work) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


@program("tasks.benchmarks.context.cell")
def main(argv: Sequence[str] | None = None) -> int:
    """One cell."""
    parser = Parser(prog="python -m tasks.benchmarks.context.cell")
    parser.add_argument("--what", choices=list(WORKS), required=True)
    parser.add_argument("--mode", choices=("dense", "sparse"), required=True)
    parser.add_argument("--length", type=whole(1), required=True)
    parser.add_argument("--topk", type=whole(1), required=True)
    parser.add_argument("--budget", type=seconds, required=True)
    parser.add_argument("--threads", type=whole(1, 4096), required=True)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    a = parser.parse_args(argv)
    torch.set_num_threads(a.threads)
    print(json.dumps(measure(a.what, a.mode, a.length, a.topk, a.budget, a.overrides)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
