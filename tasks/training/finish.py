"""The end of a training stage: the checkpoint folder, then the metrics file, each complete or absent."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from model import Transformer
from tasks.tracking import metrics as metrics_file
from tasks.training import distributed


def write_checkpoint(
    transformer: Transformer,
    folder: Path,
    tokenizer: Path,
    lineage: Mapping[str, str],
    curve: Sequence[tuple[int, float]],
    attention: Literal["dense", "sparse"] = "sparse",
) -> None:
    """A Hugging Face folder with tokenizer, longhaul.json and loss.csv; rank 0 writes it.

    lineage: stage, params_hash, data_hash; the weights' SHA-256 is added. attention: how the weights were trained to
    attend; config.json says so to every program that runs them.
    """
    transformer.config = replace(transformer.config, attention=attention)
    if distributed.rank() != 0:
        return
    extra = {path.name: path.read_bytes() for path in sorted(tokenizer.glob("*.json"))}
    extra |= {"loss.csv": _csv(curve), "longhaul.json": _json(lineage)}
    transformer.save_pretrained(folder, extra)


def write_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    """metrics/<stage>.json, by rank 0, which prints the stage's last line: its estimates."""
    if distributed.rank() == 0:
        metrics_file.write_metrics(path, metrics)
        print(f"[{path.stem}] done: {estimates(metrics)}", flush=True)


def estimates(metrics: Mapping[str, Any]) -> str:
    """`heldout bits per byte 2.293 [2.210, 2.376], ...`: every estimate that stands for itself."""
    found = {name: value for name, value in metrics.items() if isinstance(value, Mapping) and "ci95" in value}
    return ", ".join(
        f"{name.replace('_', ' ')} {value['value']:.3f} [{value['ci95'][0]:.3f}, {value['ci95'][1]:.3f}]"
        for name, value in found.items()
    )


def thinned(curve: Sequence[tuple[int, float]], points: int = 60) -> list[list[float]]:
    """About `points` pairs of the curve, each the mean of its stretch."""
    width = max(1, len(curve) // points)
    stretches = [curve[start : start + width] for start in range(0, len(curve), width)]
    return [[part[-1][0], round(sum(loss for _, loss in part) / len(part), 4)] for part in stretches]


def _csv(curve: Sequence[tuple[int, float]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", "loss"])
    writer.writerows([step, repr(loss)] for step, loss in curve)
    return text.getvalue().encode()


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
