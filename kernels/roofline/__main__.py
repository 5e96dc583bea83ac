"""`python -m kernels.roofline`: FLOPs, bytes and floors of every operation at GLM-5's shapes, on an H200.

Columns: the counted TFLOP and the bytes that must move; the floor in microseconds at the data sheet's rates and at
measured ones; the time that the chosen tiling cannot beat, the resource that bounds it, and the share of the nominal
peak that this leaves. "Softmax" after a resource: it does not run beside the products. No kernel is measured here.
"""

from __future__ import annotations

import argparse
import sys

from kernels.roofline import others, sparse
from kernels.roofline.chip import Chip
from kernels.roofline.operation import RESOURCES, Operation
from kernels.roofline.sparse import Shape


def operations() -> list[Operation]:
    """At the shapes that `kernels.bench` measures."""
    return [
        *[sparse.forward(Shape(4096, keys, 128)) for keys in (8192, 32_768, 131_072)],
        sparse.backward(Shape(4096, 8192, 64)),
        *[sparse.decode(Shape(batch, 131_072, 64)) for batch in (1, 16, 128)],
        others.indexer(4096, 131_072),
        others.cross_entropy(8192, 4096, 131_072),
        others.experts(8192, 6144, 2048, 32, 8),
        others.rms_norm(8192, 6144),
        others.rope(8192, 64, 64),
    ]


def table(chip: Chip) -> str:
    """One line an operation."""
    lines = [
        f"{'operation':26} {'shape':38} {'TFLOP':>7} {'MB':>7} {'floor us':>9} {'measured':>9} {'tiling us':>9} "
        f"{'bound by':23} {'of peak':>7}"
    ]
    for o in operations():
        lines.append(
            f"{o.name:26} {o.shape:38} {o.flops / 1e12:7.3f} {o.bytes / 1e6:7.1f} "
            f"{1e6 * o.floor(chip.tensor, chip.memory):9.1f} {1e6 * o.floor(chip.matmul, chip.copy):9.1f} "
            f"{1e6 * o.reach(chip):9.1f} {o.bound(chip):23} {o.share(chip):7.0%}"
        )
    return "\n".join(lines)


def launches(chip: Chip) -> str:
    """Microseconds that each resource would need, were it alone, for each launch."""
    lines = [f"{'launch':42} " + " ".join(f"{name:>17}" for name in RESOURCES) + f" {'tiling us':>10}"]
    for o in operations():
        for launch in o.launches:
            needs = " ".join(f"{1e6 * t:17.1f}" for t in launch.seconds(chip).values())
            lines.append(f"{o.name + ': ' + launch.name:42} {needs} {1e6 * launch.reach(chip):10.1f}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m kernels.roofline", description=__doc__.splitlines()[0])
    parser.add_argument("--launches", action="store_true", help="list what each resource needs for each launch")
    options = parser.parse_args(arguments)
    print((launches if options.launches else table)(Chip()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
