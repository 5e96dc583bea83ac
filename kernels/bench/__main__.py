"""`python3 -m kernels.bench`: checks every kernel on this machine's GPU, then times it next to what else there is.

A kernel is checked first, in bf16, against double precision, next to plain PyTorch in bf16. Times are medians of many
calls with a cold L2; rates are also given as a share of what this chip's matrix product and copy reach. Needs torch and
triton alone; TileLang's kernels are measured too where TILELANG_DSA names its folder examples/deepseek_v32. The result
goes to kernels/results/<chip>-<date>.json. The status is 1 where a kernel is wrong or breaks, 2 where there is no GPU.

With TRITON_INTERPRET=1, `--tiny` runs all of it on the CPU at tiny shapes, in fp32: its times mean nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from kernels import launch
from kernels.bench import ceilings, measure, report
from kernels.bench.entries import entries
from kernels.bench.entry import Entry, Place


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    options = _options(arguments)
    chosen = [e for e in entries() if options.only in e.name]
    if not chosen:
        print(
            f"No operation's name contains {options.only!r}; there are {', '.join(e.name for e in entries())}.",
            file=sys.stderr,
        )
        return 2
    if options.tiny and not launch.INTERPRETED:
        print("`--tiny` is for Triton's interpreter: set TRITON_INTERPRET=1.", file=sys.stderr)
        return 2
    if not options.tiny and (launch.INTERPRETED or not torch.cuda.is_available()):
        print("The benchmark needs a CUDA GPU, and TRITON_INTERPRET unset.", file=sys.stderr)
        return 2
    place = Place("cpu", torch.float32) if options.tiny else Place("cuda", torch.bfloat16)
    torch.manual_seed(0)
    found = _run(chosen, place, options)
    print(report.text(found))
    path = options.output or (None if options.tiny else report.default_path(found))
    if path:
        print(*(f"Wrote {p}" for p in _write(found, path)), sep="\n")
    return int(bool(found.failed()))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m kernels.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="operations whose name contains this text")
    parser.add_argument(
        "--quick", action="store_true", help="the first shape of each operation, a fifth of a second each"
    )
    parser.add_argument("--seconds", type=float, default=900.0, help="start nothing more after this long")
    parser.add_argument("--sweep", action="store_true", help="also time other tilings, at the first shape")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes on the CPU, by Triton's interpreter")
    parser.add_argument("--output", type=Path, help="the JSON file, instead of kernels/results/<chip>-<date>.json")
    return parser.parse_args(arguments)


def _run(chosen: list[Entry], place: Place, options: argparse.Namespace) -> report.Report:
    """Checks everything before it times anything."""
    device = "interpreter" if options.tiny else torch.cuda.get_device_name()
    each = 0.0 if options.tiny else 0.2 if options.quick else 1.0
    found = report.Report(device, ceilings.measure(place, 64 if options.tiny else 8192, each))
    budget = measure.Budget(options.seconds, each)
    for entry in chosen:
        found.verdicts[entry.name] = measure.checked(entry, place, entry.tiny if options.tiny else entry.check)
    for entry in chosen:
        shapes = [entry.tiny] if options.tiny else list(entry.shapes[: 1 if options.quick else None])
        found.rows += measure.rows(entry, place, shapes, budget)
        if options.sweep:
            found.rows += measure.sweeps(entry, place, shapes[0], budget)
    return found


def _write(found: report.Report, path: Path) -> list[Path]:
    """The JSON, and a picture beside it where matplotlib is there; what was written."""
    written = [report.write(found, path)]
    try:
        from kernels.bench import picture
    except ImportError:
        return written
    return [*written, picture.draw(found, path.with_suffix(".png"))]


if __name__ == "__main__":
    sys.exit(main())
