"""metrics/<stage>.json, which DVC compares between runs (`dvc metrics diff`)."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil


def write_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    """Writes the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    os.replace(draft, path)


def process_seconds() -> float:
    """Wall seconds since this process started, imports included: what a stage cost."""
    return round(time.time() - float(psutil.Process().create_time()), 2)
