"""JSON files that are complete or absent: metrics/<stage>.json, which `dvc metrics diff` compares, and others."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STARTED = 19  # place of the start time [clock ticks since boot] among the fields of /proc/PID/stat behind the name


def write_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    """Writes metrics/<stage>.json whole or not at all."""
    write_json(path, metrics)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON in one step: a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    try:
        draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def process_seconds() -> float:
    """Wall seconds since this process started, imports included: what a stage cost.

    Both are counted from the start of the machine, so a clock that is set meanwhile changes nothing.
    """
    after_name = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    started = int(after_name[STARTED]) / os.sysconf("SC_CLK_TCK")
    return round(time.clock_gettime(time.CLOCK_BOOTTIME) - started, 2)
