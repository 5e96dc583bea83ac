"""A run in bfloat16 on a processor without instructions for it is valid, and slow: it says so."""

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.config import load_config
from tasks.config.processor import has_bfloat16, warnings

BOTH = ["pretrain.dtype=bfloat16", "midtrain.dtype=bfloat16"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("flags\t\t: fpu avx2 avx512f\n", False),
        ("flags\t\t: fpu avx512_bf16\n", True),
        ("flags\t\t: fpu amx_bf16 amx_tile\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("Features\t: fp asimd\n", False),
        ("model name: nothing known\n", True),
    ],
)
def test_the_flags_of_a_processor_are_read(text: str, found: bool, tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(text)
    assert has_bfloat16(cpuinfo) == found
    assert has_bfloat16(tmp_path / "none")
    said = list(warnings(load_config(overrides=BOTH), cpuinfo, tmp_path / "gpu"))
    assert len(said) == (0 if found else 2)
    assert not list(warnings(load_config(overrides=BOTH), cpuinfo, tmp_path))  # a GPU is there
    assert not list(warnings(load_config(), cpuinfo, tmp_path / "gpu"))


@pytest.mark.skipif(has_bfloat16(Path("/proc/cpuinfo")), reason="this processor has them")
def test_the_command_warns_and_goes_on() -> None:
    command = [sys.executable, "-m", "tasks.config", "check", "midtrain.dtype=bfloat16"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.startswith("Warning: midtrain.dtype is bfloat16, but this machine has no GPU")
    assert done.stderr.count("\n") == 1
