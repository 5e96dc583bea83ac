"""What this machine's processor makes of the parameters: a valid run that would be many times slower than another."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.config.sections import Config

BFLOAT16 = {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"}  # of /proc/cpuinfo, x86 and Arm


def warnings(config: Config, cpuinfo: Path = Path("/proc/cpuinfo"), gpu: Path = Path("/dev/nvidia0")) -> Iterator[str]:
    """One sentence for each stage that trains in bfloat16 on a processor without instructions for it."""
    if gpu.exists() or has_bfloat16(cpuinfo):
        return
    for stage, dtype in (("pretrain", config.pretrain.dtype), ("midtrain", config.midtrain.dtype)):
        if dtype == "bfloat16":
            yield (
                f"Warning: {stage}.dtype is bfloat16, but this machine has no GPU and its processor no bfloat16 "
                f"instructions, so that training takes many times as long; {stage}.dtype=float32 is the faster here."
            )


def has_bfloat16(cpuinfo: Path) -> bool:
    """Whether the processor multiplies bfloat16 itself; where nothing says so, it is taken for granted."""
    if platform.system() != "Linux":
        return True
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    flags = [line.partition(":")[2].split() for line in text.splitlines() if line.lower().startswith(("flags", "feat"))]
    return not flags or any(BFLOAT16 & set(line) for line in flags)
