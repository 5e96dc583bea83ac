"""The benchmark: all of it at tiny shapes by Triton's interpreter, and its judgements on made-up kernels."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kernels.bench import report
from kernels.bench.__main__ import main
from kernels.bench.ceilings import Ceilings
from kernels.bench.check import relative_error
from kernels.bench.clock import Timing, time_call
from kernels.bench.entries import entries
from kernels.bench.entry import Entry, Place, Sweep
from kernels.bench.measure import Budget, Row, checked, rows
from kernels.bench.tiling import tiled
from kernels.sparse_decode import triton as sparse_decode

ROOT = Path(__file__).parents[2]
CPU = Place("cpu", torch.float32)


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kernels.bench", *arguments]
    settings = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | environment
    return subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)


def doubling(kernel) -> Entry:
    return Entry(
        name="double",
        make=lambda place, s: (place.randn(s["N"]),),
        kernel=kernel,
        plain=lambda x: (x + x,),
        shapes=[{"N": 8}],
        check={"N": 8},
        tiny={"N": 8},
        flops=lambda s: s["N"],
    )


def test_everything_runs_at_tiny_shapes(tmp_path: Path) -> None:
    file = tmp_path / "all.json"
    done = run("--tiny", "--sweep", "--output", str(file), TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text())
    assert found["device"] == "interpreter"
    assert {row["operation"] for row in found["rows"]} == {e.name for e in entries()} == set(found["checks"])
    assert all(v["passed"] for v in found["checks"].values() if isinstance(v, dict))
    timed = [row for row in found["rows"] if row["timing"]]
    assert {row["candidate"] for row in timed} >= {"kernel", "torch, gathered", "_shares num_warps=4"}
    assert file.with_suffix(".png").exists()
    assert "WRONG" not in done.stdout


def test_without_a_gpu_it_says_so() -> None:
    done = run(CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert done.stderr == "The benchmark needs a CUDA GPU, and TRITON_INTERPRET unset.\n"


def test_interpreted_results_are_kept_only_where_a_path_is_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    assert main(["--tiny", "--only", "linear"]) == 0
    assert not list(tmp_path.iterdir())


def test_an_unknown_operation_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--tiny", "--only", "nothing"]) == 2
    assert "sparse_decode" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kernel", "passes"),
    [
        (lambda x: (2 * x,), True),
        (lambda x: (2.001 * x,), False),
        (lambda x: (torch.full_like(x, torch.nan),), False),
    ],
)
def test_a_kernel_is_judged_by_its_error(kernel, passes: bool) -> None:
    assert checked(doubling(kernel), CPU, {"N": 8}).passed is passes


def test_a_broken_or_missing_kernel_is_a_sentence() -> None:
    broken = doubling(lambda x: 1 / 0)
    found = report.Report("chip", Ceilings(1, 1))
    found.verdicts["double"] = checked(broken, CPU, {"N": 8})
    assert found.verdicts["double"] == "The kernel failed: ZeroDivisionError: division by zero"
    assert found.failed() == ["double"]
    found.verdicts["double"] = checked(replace(broken, missing=lambda: "It is not there."), CPU, {"N": 8})
    assert found.failed() == []
    (row,) = rows(broken, CPU, [{"N": 8}], Budget(60, 0))
    assert row.note == "ZeroDivisionError: division by zero"


def test_nothing_starts_after_the_time_is_spent() -> None:
    (row,) = rows(doubling(lambda x: (2 * x,)), CPU, [{"N": 8}], Budget(-1, 0))
    assert row.timing is None
    assert row.note == "Left out: the time is spent."


def test_infinities_must_be_where_they_belong() -> None:
    wanted = torch.tensor([1.0, -torch.inf])
    assert relative_error(wanted, wanted) == 0
    assert relative_error(torch.tensor([1.0, torch.inf]), wanted) == float("inf")
    assert relative_error(torch.tensor([1.0, 0.0]), wanted) == float("inf")


def test_a_timing_is_the_median_of_at_least_three_calls() -> None:
    calls = []
    timing = time_call(lambda: calls.append(1), "cpu", 0.0)
    assert timing.repeats == 3
    assert len(calls) == 2 + 3
    assert timing.low <= timing.median <= timing.high


def test_a_tiling_is_put_back() -> None:
    before = sparse_decode._shares
    with tiled(Sweep("kernels.sparse_decode.triton", "_shares", []), {"num_warps": 4}):
        assert sparse_decode._shares is not before
    assert sparse_decode._shares is before


def made_up() -> report.Report:
    found = report.Report("NVIDIA H200", Ceilings(800, 4300), date="2026-01-02")
    for length, kernel, dense in ((4096, 2.0, 1.0), (8192, 2.0, 4.0)):
        shape = {"S": length}
        found.rows += [
            Row("attention.forward", shape, "kernel", Timing(kernel, kernel, kernel, 3), 400, 43),
            Row("attention.forward", shape, "dense, torch SDPA", Timing(dense, dense, dense, 3)),
        ]
    return found


def test_the_report_gives_share_ratio_and_crossover(tmp_path: Path) -> None:
    found = made_up()
    assert found.share(found.rows[0]) == 0.5
    assert [row["kernel_is"] for row in report.as_json(found)["rows"]] == [0.0, 0.5, 0.0, 2.0]
    assert "attention.forward: DSA is faster than dense attention from 8192 tokens." in report.text(found)
    assert report.default_path(found).name == "nvidia-h200-2026-01-02.json"
