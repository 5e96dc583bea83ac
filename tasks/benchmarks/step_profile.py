"""`python -m tasks.benchmarks.step_profile`: where a training step's time goes, and the time it cannot go below.

The steps of `tasks.benchmarks.model_speed`, in fp32 and with rounded products. The floor of a step is its matrix
products at the rate of the machine's best one, with everything else free. Writes docs/training-step.md and its picture.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from model import ModelConfig, Transformer
from tasks.benchmarks.markdown import table
from tasks.benchmarks.model_speed import CASES, SHAPE, Case, Work, machine, step, timed, training_loss
from tasks.cli import Parser, program, whole

SPEED = Path("metrics/bench_model.json")
PRODUCT = (4096, 1024, 1024)  # rows, inner size and columns of the product whose rate is the limit
REPEATS = 7
GROUPS = {  # the profiler's names, or how they begin, by what they are
    "matrix products": ("aten::mm", "aten::bmm", "aten::addmm"),
    "attention over lists": ("ListedAttention",),
    "normalisation": ("RMSNorm",),
    "copies, casts, gathers": ("aten::copy_", "aten::cat", "aten::index_select", "aten::fill_", "aten::clone"),
    "optimizer": ("aten::_fused_adamw_",),
}
OTHER = "everything else"


@dataclass(frozen=True)
class Profile:
    """One step: its median seconds, its products' FLOPs, and what share of it each group takes."""

    case: str
    dtype: str
    seconds: float
    flops: int
    shares: Mapping[str, float]

    def floor(self, rates: Mapping[str, float]) -> float:
        """Seconds of the products alone at the best rate, FLOP/s by dtype."""
        return self.flops / rates[self.dtype]


class _Flops(TorchDispatchMode):
    """Counts the FLOPs of matrix products. (`FlopCounterMode` cannot: it wants a gradient of every module.)"""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func.overloadpacket)
        self.total += count(*args, **(kwargs or {}), out_val=out) if count else 0
        return out


def best_rate(dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product on the present number of threads."""
    rows, inner, columns = PRODUCT
    left, right = torch.randn(rows, inner).to(dtype), torch.randn(inner, columns).to(dtype)
    times: list[float] = [timed(lambda: torch.mm(left, right)) for _ in range(REPEATS + 3)]
    return 2.0 * rows * inner * columns / min(times)


def profiles(config: ModelConfig, cases: Mapping[str, Case]) -> list[Profile]:
    """Every training case in fp32 and under autocast, on one network."""
    network = Transformer(config)
    network.init_weights(0)
    found = []
    for name, case in cases.items():
        loss = training_loss(network, case)
        for dtype in ("float32", "bfloat16"):
            found.append(_profile(name, dtype, step(network, loss, autocast=dtype == "bfloat16")))
    return found


def _profile(case: str, dtype: str, work: Work) -> Profile:
    with _Flops() as counter:
        work()
    times = [timed(work) for _ in range(REPEATS)]
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    spent = {event.key: float(event.self_cpu_time_total) for event in profiler.key_averages()}
    return Profile(case, dtype, median(times), counter.total, shares(spent))


def shares(spent: Mapping[str, float]) -> dict[str, float]:
    """The share of each group in what the operations spent; the rest is `OTHER`."""
    total = sum(spent.values())
    found = {
        group: sum(time for name, time in spent.items() if name.startswith(beginnings)) / total
        for group, beginnings in GROUPS.items()
    }
    return found | {OTHER: 1.0 - sum(found.values())}


def page(found: Sequence[Profile], rates: Mapping[str, float], theirs: Mapping[str, float]) -> str:
    """docs/training-step.md; theirs: seconds of transformers' fp32 step by case, where they are known."""
    names = [*GROUPS, OTHER]
    head = ["step", "products in", "seconds", "GFLOP of products", "floor, s", *names, "transformers fp32 / floor"]
    rows = [
        [p.case.removeprefix("train_"), p.dtype, f"{p.seconds:.3f}", f"{p.flops / 1e9:.1f}", f"{p.floor(rates):.3f}"]
        + [f"{p.shares[name]:.0%}" for name in names]
        + [f"{theirs[p.case] / p.floor(rates):.2f}x" if p.case in theirs else "not measured"]
        for p in found
    ]
    limits = " and ".join(f"{rate / 1e9:.0f} GFLOP/s in {dtype}" for dtype, rate in rates.items())
    return f"""# Where a training step's time goes

Written by `python -m tasks.benchmarks.step_profile` on {machine()}, {torch.get_num_threads()} threads. The steps are
those of `make bench-model`: 6.5 M parameters, forward, backward and AdamW, in sparse mode. Shares are of the time that
the profiler sees inside operations, on the thread that calls them.

A product of {" x ".join(map(str, PRODUCT))} runs at {limits}.
The floor is a step's products at that rate with everything else free; the last column is how many times faster than
transformers' fp32 step (`{SPEED}`) a step at the floor would be.

{table(head, rows)}
![shares of a step](training-step.png)
"""


def picture(found: Sequence[Profile], path: Path) -> None:
    """Seconds of each step, stacked by group."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 4.2), layout="constrained")
    labels = [f"{p.case.removeprefix('train_')}\n{p.dtype}" for p in found]
    bottom = [0.0] * len(found)
    for group in (*GROUPS, OTHER):
        heights = [p.seconds * p.shares[group] for p in found]
        axes.bar(labels, heights, bottom=bottom, label=group)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axes.set_ylabel("seconds a step")
    axes.legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


@program("tasks.benchmarks.step_profile")
def main(argv: Sequence[str] | None = None) -> int:
    """Writes the page and prints it."""
    parser = Parser(prog="python -m tasks.benchmarks.step_profile")
    parser.add_argument("--threads", type=whole(1, 4096), default=2)
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="the folder of the page and its picture")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    cases = {name: case for name, case in CASES.items() if not case.new}
    rates = {str(dtype).removeprefix("torch."): best_rate(dtype) for dtype in (torch.float32, torch.bfloat16)}
    found = profiles(SHAPE, cases)
    known = json.loads(SPEED.read_text()) if SPEED.exists() else {}
    theirs = {name: case.tokens / known[name]["transformers"] for name, case in cases.items() if name in known}
    text = page(found, rates, theirs)
    arguments.docs.mkdir(parents=True, exist_ok=True)
    picture(found, arguments.docs / "training-step.png")
    (arguments.docs / "training-step.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
