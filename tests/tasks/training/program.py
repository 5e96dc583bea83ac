"""A program that trains the tiny network: `program.py STATE_FOLDER OUT.json [kill-at-step]`."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import torch

from tasks.training import distributed
from tasks.training.loop import Run, train
from tasks.training.resume import ResumeState
from tests.tasks.training import tiny


def main() -> None:
    """Kills itself with SIGKILL at the step asked for, after the step and before its state is saved."""
    torch.set_num_threads(1)
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    kill_at = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    norms: list[float] = []

    def report(step: int, metrics: object) -> None:
        assert isinstance(metrics, dict)
        norms.append(metrics["grad_norm"])
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    network = tiny.transformer()
    state = ResumeState("tiny", {"seed": 1}, folder)
    sources = {"corpus": tiny.corpus(documents="--whole" not in sys.argv)}
    curve = train(network, Run("tiny", tiny.phases(), sources, 1, state, report, save_every=4))
    digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in network.state_dict().values())).hexdigest()
    if distributed.rank() == 0:
        out.write_text(json.dumps({"curve": curve, "weights": digest, "last_norm": norms[-1]}))


if __name__ == "__main__":
    main()
