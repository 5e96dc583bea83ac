"""JSON files that are complete or absent: metrics/<stage>.json, which `dvc metrics diff` compares, and others."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil


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
    """Wall seconds since this process started, imports included: what a stage cost."""
    return round(time.time() - float(psutil.Process().create_time()), 2)
