"""The gate: what it finds fault with, and one real compilation in a process without the interpreter."""

import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from kernels import compile_gate
from kernels.cases import SM80, SM90, SM100, Case
from kernels.compile_gate import SHARED_LIMIT, SLACK, Resources, faults, main, markdown, table

ROOT = Path(__file__).parents[2]
CASE = Case("made.up", None, {}, {}, matrix=True)
GOOD = Resources(registers=100, stack=0, shared=50_000, wgmma=8)


def test_a_good_kernel_has_no_fault() -> None:
    assert faults(CASE, SM90, GOOD, asdict(GOOD)) == []


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (replace(GOOD, stack=16), "made.up on sm_90 spills 16 bytes a thread to local memory."),
        (replace(GOOD, registers=109), "made.up on sm_90 needs 109 registers, more than the 100 of"),
        (replace(GOOD, shared=50_000 + SLACK["shared"] + 1), "made.up on sm_90 needs 51025 shared, more than"),
        (replace(GOOD, wgmma=7), "made.up on sm_90 has 7 wgmma instructions, fewer than the 8 before."),
    ],
)
def test_a_worse_kernel_is_reported(found: Resources, says: str) -> None:
    (sentence,) = faults(CASE, SM90, found, asdict(GOOD))
    assert sentence.startswith(says)


def test_a_little_growth_is_no_fault() -> None:
    found = replace(GOOD, registers=100 + SLACK["registers"], shared=50_000 + SLACK["shared"])
    assert faults(CASE, SM90, found, asdict(GOOD)) == []


def test_products_without_wgmma_are_a_fault_on_hopper_alone() -> None:
    found = replace(GOOD, wgmma=0)
    assert "no wgmma" in " ".join(faults(CASE, SM90, found, asdict(found)))
    assert faults(CASE, SM80, found, asdict(found)) == faults(CASE, SM100, found, asdict(found)) == []
    assert faults(replace(CASE, matrix=False), SM90, found, asdict(found)) == []


@pytest.mark.parametrize("target", [SM80, SM90, SM100])
def test_more_shared_memory_than_the_chip_has_is_a_fault(target: int) -> None:
    found = replace(GOOD, shared=SHARED_LIMIT[target] + 1)
    assert "a block may have" in " ".join(faults(CASE, target, found, asdict(found)))


def test_a_kernel_that_nobody_looked_at_is_a_fault() -> None:
    (sentence,) = faults(CASE, SM90, GOOD, None)
    assert "--update" in sentence


def test_both_tables_have_a_line_a_kernel() -> None:
    rows = [("made.up", SM90, GOOD), ("made.up", SM100, GOOD)]
    assert len(table(rows).splitlines()) == 3
    assert markdown(rows).splitlines()[2] == "| made.up | sm_90 | 100 | 0 | 50,000 | 8 |"


def test_the_interpreter_compiles_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "unset" in capsys.readouterr().err


def test_every_operation_with_kernels_has_cases_and_a_baseline() -> None:
    folders = {path.parent.name for path in ROOT.glob("kernels/*/triton.py")}
    names = {case.name.split(".")[0] for case in compile_gate.cases()}
    assert names == folders
    baseline = compile_gate.BASELINE.read_text()
    assert all(f'"{case.name} sm_{target}"' in baseline for case in compile_gate.cases() for target in case.targets)


def test_a_kernel_is_really_compiled(tmp_path: Path) -> None:
    settings = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "kernels.compile_gate", "--only", "sparse_decode.combine"]
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sparse_decode.combine" in done.stdout
    assert "All 3 compiled kernels" in done.stdout
