"""The gate: what it finds fault with, and one real compilation in a process without the interpreter."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from kernels import compile_gate
from kernels.cases import SM80, SM90, SM100, Case
from kernels.compile_gate import SHARED_LIMIT, SLACK, Baseline, Resources, growth, limits, main, markdown, table

ROOT = Path(__file__).parents[2]
CASE = Case("made.up", None, {}, {}, matrix=True)
GOOD = Resources(registers=100, stack=0, shared=50_000, wgmma=8)


def test_a_good_kernel_has_no_fault() -> None:
    assert limits(CASE, SM90, GOOD) == growth(CASE, SM90, GOOD, asdict(GOOD)) == []


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (replace(GOOD, registers=109), "made.up on sm_90 needs 109 registers, more than the 100 of"),
        (replace(GOOD, shared=50_000 + SLACK["shared"] + 1), "made.up on sm_90 needs 51025 shared, more than"),
        (replace(GOOD, wgmma=7), "made.up on sm_90 has 7 wgmma instructions, fewer than the 8 before."),
    ],
)
def test_a_worse_kernel_is_reported(found: Resources, says: str) -> None:
    (sentence,) = growth(CASE, SM90, found, asdict(GOOD))
    assert sentence.startswith(says)
    assert limits(CASE, SM90, found) == []


def test_a_little_growth_is_no_fault() -> None:
    found = replace(GOOD, registers=100 + SLACK["registers"], shared=50_000 + SLACK["shared"])
    assert growth(CASE, SM90, found, asdict(GOOD)) == []


def test_a_spill_is_a_fault() -> None:
    assert limits(CASE, SM90, replace(GOOD, stack=16)) == ["made.up on sm_90 spills 16 bytes a thread to local memory."]


def test_products_without_wgmma_are_a_fault_on_hopper_alone() -> None:
    found = replace(GOOD, wgmma=0)
    assert "no wgmma" in " ".join(limits(CASE, SM90, found))
    assert limits(CASE, SM80, found) == limits(CASE, SM100, found) == []
    assert limits(replace(CASE, matrix=False), SM90, found) == []


@pytest.mark.parametrize("target", [SM80, SM90, SM100])
def test_more_shared_memory_than_the_chip_has_is_a_fault(target: int) -> None:
    found = replace(GOOD, shared=SHARED_LIMIT[target] + 1)
    assert "a block may have" in " ".join(limits(CASE, target, found))


def test_a_kernel_that_nobody_looked_at_is_a_fault() -> None:
    (sentence,) = growth(CASE, SM90, GOOD, None)
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
    assert {case.name.split(".")[0] for case in compile_gate.cases()} == folders
    jobs = {f"{case.name} sm_{target}" for case in compile_gate.cases() for target in case.targets}
    assert Baseline.read().kernels.keys() == jobs


def test_the_baseline_is_of_the_triton_that_the_lock_names() -> None:
    assert f"triton=={Baseline.read().triton}" in (ROOT / "constraints.txt").read_text().split()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """The gate over one made-up kernel on sm_90, with what compiling it gives, a version and a baseline of its own."""
    monkeypatch.setattr(compile_gate, "BASELINE", tmp_path / "baseline.json")
    monkeypatch.setattr(compile_gate, "cases", lambda: [replace(CASE, targets=(SM90,))])
    monkeypatch.setattr(compile_gate.launch, "INTERPRETED", False)

    def run(version: str, found: Resources, *options: str) -> int:
        monkeypatch.setattr(compile_gate, "compiler", lambda: version)
        monkeypatch.setattr(compile_gate, "compile_case", lambda case, target: found)
        return main(list(options))

    return run


def test_figures_are_compared_with_those_of_the_same_triton_alone(
    gate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    more = replace(GOOD, registers=200)
    assert gate("3.7.1", GOOD, "--update") == 0
    assert gate("3.7.1", more) == 1
    assert "made.up on sm_90 needs 200 registers" in capsys.readouterr().out
    assert gate("3.9.0", more) == 0
    assert "it is of triton 3.7.1, here is 3.9.0" in capsys.readouterr().out
    assert gate("3.9.0", replace(more, stack=8)) == 1
    assert "spills 8 bytes" in capsys.readouterr().out


def test_without_a_baseline_the_limits_hold(gate: Callable[..., int]) -> None:
    assert gate("3.7.1", GOOD) == 0
    assert gate("3.7.1", replace(GOOD, stack=8)) == 1


def test_a_baseline_is_of_one_triton(gate: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    gate("3.7.1", GOOD, "--update")
    assert gate("3.9.0", replace(GOOD, registers=9), "--update", "--only", "made") == 2
    assert "without --only" in capsys.readouterr().err
    assert Baseline.read() == Baseline("3.7.1", {"made.up sm_90": asdict(GOOD)})
    gate("3.7.1", replace(GOOD, registers=8), "--update", "--only", "made")
    assert Baseline.read().kernels["made.up sm_90"]["registers"] == 8


def test_the_worse_of_both_codes_of_a_kernel_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = {(): Resources(100, 0, 500, 8), ("columns",): Resources(90, 8, 400, 4)}
    monkeypatch.setattr(compile_gate, "_compiled", lambda case, target, multiples: codes[tuple(multiples)])
    case = replace(CASE, arguments={"scores": "*fp32", "columns": "i32", "scale": "fp32"})
    assert compile_gate.compile_case(case, SM90) == Resources(100, 8, 500, 4)
    assert compile_gate.compile_case(CASE, SM90) == codes[()]


def test_a_kernel_is_really_compiled(tmp_path: Path) -> None:
    settings = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "kernels.compile_gate", "--only", "sparse_decode.combine"]
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sparse_decode.combine" in done.stdout
    assert "All 3 kernels compiled by triton" in done.stdout
