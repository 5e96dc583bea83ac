"""`python -m kernels.compile_gate`: compiles every Triton kernel ahead of time, without a GPU, and judges the result.

Prints registers, stack, shared memory and wgmma instructions of each kernel and target. The status is not 0 where a
kernel does not compile, spills to local memory (stack), needs more shared memory than the chip has, or has no wgmma
where its products should use it. With the triton that the committed `kernels/compile_baseline.json` names it is not 0
either where a kernel needs more registers or shared memory than stands there: the figures of two compilers differ.
`--update` writes the baseline anew.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

from kernels import launch
from kernels.cases import SM80, SM90, SM100, Case

BASELINE = Path(__file__).with_name("compile_baseline.json")
SHARED_LIMIT = {SM80: 166_912, SM90: 232_448, SM100: 232_448}  # bytes a block may have
OPTIONS = ("num_warps", "num_stages")
SLACK = {"registers": 8, "shared": 1024}  # a compiler's update may move these a little without harm


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel needs: registers a thread, bytes of stack a thread, bytes of shared memory a block."""

    registers: int
    stack: int
    shared: int
    wgmma: int


def compiler() -> str:
    """The version of triton, without what a build of one's own adds to it."""
    import triton

    return str(triton.__version__).partition("+")[0]


def cases() -> list[Case]:
    """The `CASES` of every `kernels/<operation>/triton.py`."""
    folders = sorted(path.parent.name for path in Path(__file__).parent.glob("*/triton.py"))
    return [case for name in folders for case in import_module(f"kernels.{name}.triton").CASES]


def compile_case(case: Case, target: int) -> Resources:
    """Compiles for a compute capability (90 is Hopper); the most that any result needs.

    A launch whose whole numbers are multiples of 16 gets code of its own, so there are two results to look at.
    """
    whole = [name for name, kind in case.arguments.items() if kind.startswith("i")]
    found = [_compiled(case, target, multiples) for multiples in ([[], whole] if whole else [[]])]
    most = {name: max(getattr(r, name) for r in found) for name in ("registers", "stack", "shared")}
    return Resources(**most, wgmma=min(r.wgmma for r in found))


def _compiled(case: Case, target: int, multiples: list[str]) -> Resources:
    """With the arguments `multiples` divisible by 16, as pointers are."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names, constants = list(case.kernel.arg_names), case.settings(target)
    options = {name: constants.pop(name) for name in OPTIONS if name in constants}  # others: triton's, as in a launch
    pointers = [name for name, kind in case.arguments.items() if kind.startswith("*")]
    source = ASTSource(
        fn=case.kernel,
        signature={name: case.arguments.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in (*pointers, *multiples)},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)
    registers, stack = _usage(compiled.asm["cubin"])
    return Resources(registers, stack, compiled.metadata.shared, compiled.asm["ptx"].count("wgmma.mma_async"))


def _usage(cubin: bytes) -> tuple[int, int]:
    """Registers and stack bytes a thread, as the toolkit's `cuobjdump` prints them."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        printed = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", printed)
    if found is None:
        raise RuntimeError(f"{tool} printed no resource usage: {printed!r}.")
    return int(found[1]), int(found[2])


@dataclass(frozen=True)
class Baseline:
    """Figures that somebody looked at, by kernel and target, and the version of triton that they hold for."""

    triton: str
    kernels: dict[str, dict[str, int]]

    @classmethod
    def read(cls) -> Baseline:
        """The committed one; one that holds for no version where there is none."""
        return cls(**json.loads(BASELINE.read_text())) if BASELINE.exists() else cls("", {})

    def write(self) -> None:
        """Makes it the committed one."""
        BASELINE.write_text(json.dumps(asdict(self), indent=1, sort_keys=True) + "\n")


def limits(case: Case, target: int, found: Resources) -> list[str]:
    """What no version of the compiler may do to a kernel, one sentence each."""
    where, wrong = f"{case.name} on sm_{target}", []
    if found.stack:
        wrong.append(f"{where} spills {found.stack} bytes a thread to local memory.")
    if found.shared > SHARED_LIMIT[target]:
        wrong.append(
            f"{where} needs {found.shared} bytes of shared memory, but a block may have {SHARED_LIMIT[target]}."
        )
    if case.matrix and target == SM90 and not found.wgmma:
        wrong.append(f"{where} has no wgmma instruction, so its products do not use Hopper's tensor cores.")
    return wrong


def growth(case: Case, target: int, found: Resources, baseline: dict[str, int] | None) -> list[str]:
    """Where a kernel is worse than by the baseline, one sentence each."""
    where, wrong = f"{case.name} on sm_{target}", []
    if baseline is None:
        return [f"{where} is not in {BASELINE.name}; look at its figures, then run with --update."]
    for name, slack in SLACK.items():
        now, before = asdict(found)[name], baseline[name]
        if now > before + slack:
            wrong.append(f"{where} needs {now} {name}, more than the {before} of {BASELINE.name}.")
    if found.wgmma < baseline["wgmma"]:
        wrong.append(f"{where} has {found.wgmma} wgmma instructions, fewer than the {baseline['wgmma']} before.")
    return wrong


def table(rows: Iterable[tuple[str, int, Resources]]) -> str:
    """One line a kernel and target."""
    lines = [f"{'kernel':44} {'target':>7} {'registers':>9} {'stack':>6} {'shared':>7} {'wgmma':>6}"]
    for name, target, r in rows:
        lines.append(f"{name:44} {'sm_' + str(target):>7} {r.registers:>9} {r.stack:>6} {r.shared:>7} {r.wgmma:>6}")
    return "\n".join(lines)


def markdown(rows: Iterable[tuple[str, int, Resources]]) -> str:
    """The same as a Markdown table."""
    lines = ["| kernel | target | registers | stack | shared bytes | wgmma |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {name} | sm_{target} | {r.registers} | {r.stack} | {r.shared:,} | {r.wgmma} |" for name, target, r in rows
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m kernels.compile_gate", description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="write the figures found to the baseline")
    parser.add_argument("--only", default="", help="compile the kernels whose name contains this text")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    options = parser.parse_args(arguments)
    if launch.INTERPRETED:
        print(
            "The gate compiles kernels, which TRITON_INTERPRET=1 replaces by the interpreter; unset it.",
            file=sys.stderr,
        )
        return 2
    version, baseline = compiler(), Baseline.read()
    if options.update and options.only and version != baseline.triton:
        print(
            f"{BASELINE.name} is of triton {baseline.triton}, here is {version}: run --update without --only.",
            file=sys.stderr,
        )
        return 2
    jobs = [(case, target) for case in cases() if options.only in case.name for target in case.targets]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda job: compile_case(*job), jobs))
    rows = [(case.name, target, r) for (case, target), r in zip(jobs, found, strict=True)]
    print((markdown if options.markdown else table)(rows))
    if options.update:
        now = {_key(*job): asdict(r) for job, r in zip(jobs, found, strict=True)}
        baseline = Baseline(version, (baseline.kernels if options.only else {}) | now)
        baseline.write()
    return _judge(jobs, found, version, baseline)


def _judge(jobs: list[tuple[Case, int]], found: list[Resources], version: str, baseline: Baseline) -> int:
    """Prints the verdict; the exit status."""
    wrong = [s for job, r in zip(jobs, found, strict=True) for s in limits(*job, r)]
    if version == baseline.triton:
        known = [baseline.kernels.get(_key(*job)) for job in jobs]
        wrong += [s for job, r, before in zip(jobs, found, known, strict=True) for s in growth(*job, r, before)]
    else:
        print(
            f"Not compared with {BASELINE.name}: it is of triton {baseline.triton or 'no version'}, here is {version}."
        )
    against = f" and to {BASELINE.name}" if version == baseline.triton else ""
    print("\n".join(wrong) or f"All {len(jobs)} kernels compiled by triton {version} keep to the limits{against}.")
    return int(bool(wrong))


def _key(case: Case, target: int) -> str:
    return f"{case.name} sm_{target}"


if __name__ == "__main__":
    sys.exit(main())
