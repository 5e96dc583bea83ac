"""RL beside its control of random rewards, as `make evidence` measured them in runs of its own."""

from __future__ import annotations

import json
from pathlib import Path

from tasks.tracking import pictures
from tasks.tracking.pictures import Interval, interval

EVIDENCE = Path("docs/evidence.json")  # written by tasks.benchmarks.evidence: seed -> model -> family -> scores
SERIES = {"midtrained": "before RL", "rl": "judge's rewards", "random": "random rewards (control)"}


def control_pictures() -> list[tuple[str, str]]:
    """The picture of the control with its caption; none where there is no evidence."""
    if not EVIDENCE.is_file():
        return []
    scores = json.loads(EVIDENCE.read_text(encoding="utf-8"))
    groups: dict[str, dict[str, Interval]] = {
        f"{family}\nseed {seed}": {
            title: interval(scores[seed][model][family]["pass_at_1"]) for model, title in SERIES.items()
        }
        for family in next(iter(scores.values()))["rl"]
        for seed in scores
    }
    caption = f"Held-out pass@1 at T=1 of the runs of `make evidence`, not of this one (from {EVIDENCE})."
    return [(pictures.bars("RL and its control", groups, "share solved"), caption)]
