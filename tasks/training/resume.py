"""Where a killed stage finds its state again: `.longhaul/state/<stage>-<hash of what it depends on>/`."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.tracking.metrics import process_seconds
from tasks.training import distributed
from tasks.training.engine import Trainer

KEPT = 2  # newest states kept: the last one may be the one being replaced


class ResumeState:
    """The states of one run of one stage, newest last; a run with other inputs has another folder."""

    def __init__(self, stage: str, inputs: Mapping[str, Any], root: Path = Path(".longhaul/state")) -> None:
        canonical = json.dumps(inputs, sort_keys=True, default=str).encode()
        self.folder = root / f"{stage}-{hashlib.sha256(canonical).hexdigest()[:16]}"
        self._earlier = 0.0

    def newest(self) -> tuple[int, Path] | None:
        """(global step, folder) of the newest complete state."""
        found = sorted(path for path in self.folder.glob("step-*") if path.suffix != ".tmp")
        return (int(found[-1].name.removeprefix("step-")), found[-1]) if found else None

    def seconds(self) -> float:
        """What the stage has cost: wall seconds of this process, and of those before it up to the states they saved."""
        return round(self._earlier + process_seconds(), 2)

    def load(self, trainer: Trainer, folder: Path) -> dict[str, Any]:
        """The `client_state` of a state saved by an earlier process, whose seconds count from here on."""
        client_state = trainer.load(folder)
        self._earlier = float(client_state.get("seconds", 0.0))
        return client_state

    def save(self, trainer: Trainer, step: int, client_state: dict[str, Any]) -> None:
        """Writes the state after `step` steps and drops the oldest."""
        trainer.save(self.folder / f"step-{step:08d}", client_state | {"seconds": self.seconds()})
        if distributed.rank() == 0:
            for old in sorted(self.folder.glob("step-*"))[:-KEPT]:
                shutil.rmtree(old, ignore_errors=True)

    def clear(self) -> None:
        """Forgets everything: the stage has finished."""
        if distributed.rank() == 0:
            shutil.rmtree(self.folder, ignore_errors=True)
