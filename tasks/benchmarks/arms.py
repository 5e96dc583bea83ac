"""The arms of the evidence: each a folder of its own in which the ordinary stage programs run.

seed-N/base      pretrain, midtrain, reinforce (judge's rewards)
seed-N/random    the same midtrained model, random rewards, the same number of updates
seed-N/finetune  the same midtrained model, more fine-tuning for as long as RL took
seed-N/scratch   midtraining of an untrained model, the same steps

A part whose result is there is not run again, so that an interrupted run goes on.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from model import Transformer
from tasks.config import load_config

ARMS = ("base", "random", "finetune", "scratch")


@dataclass(frozen=True)
class Evidence:
    """Where the arms of one seed live, and on what they are scored."""

    root: Path  # .longhaul/evidence
    seed: int
    scoring: Sequence[str]  # overrides of the `evaluate` section

    @property
    def folder(self) -> Path:
        """All arms of this seed."""
        return self.root / f"seed-{self.seed}"

    def arm(self, name: str) -> Path:
        """The arm's working folder, with the project's parameters and data."""
        folder = self.folder / name
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        shutil.copyfile("params.yaml", folder / "params.yaml")
        link(folder / "data", Path("data"))
        link(folder / "metrics" / "curate.json", Path("metrics/curate.json"))
        return folder

    def run_arms(self) -> None:
        """Every arm in its order; the later ones start from what `base` left."""
        base, scratch = self.arm("base"), self.arm("scratch")
        for stage in ("pretrain", "midtrain"):
            self._stage(base, stage)
        self._untrained(scratch / "checkpoints" / "pretrain", base / "checkpoints" / "pretrain")
        self._stage(scratch, "midtrain")
        self._stage(base, "reinforce", _unmeasured())
        random = self.arm("random")
        link(random / "checkpoints" / "midtrain", base / "checkpoints" / "midtrain")
        self._stage(random, "reinforce", _unmeasured(), "reinforce.reward=random")
        self._finetune(base)

    def scores(self) -> dict[str, Any]:
        """{checkpoint: {family: scores}} of every model of this seed."""
        arms = {name: self.folder / name / "checkpoints" for name in ARMS}
        checkpoints = {
            "midtrained": arms["base"] / "midtrain", "rl": arms["base"] / "reinforce",
            "random": arms["random"] / "reinforce", "finetuned": arms["finetune"] / "midtrain",
            "scratch": arms["scratch"] / "midtrain",
        }  # fmt: skip
        return {name: self._score(name, checkpoint) for name, checkpoint in checkpoints.items()}

    def _finetune(self, base: Path) -> None:
        """The agent phase of midtraining again, for as many steps as fit into the seconds RL took."""
        folder = self.arm("finetune")
        link(folder / "checkpoints" / "pretrain", base / "checkpoints" / "midtrain")
        reinforce = json.loads((base / "metrics/reinforce.json").read_text(encoding="utf-8"))
        steps = max(1, round(reinforce["seconds"] / agent_step_seconds(base / "run.log")))
        only = [f"midtrain.{phase}_steps=0" for phase in ("dense", "indexer", "sparse")]
        self._stage(folder, "midtrain", *only, f"midtrain.agent_steps={steps}")

    def seconds(self) -> dict[str, float]:
        """What RL, its control and more fine-tuning took, start and evaluations of the stage included."""
        files = {
            "rl": "base/metrics/reinforce",
            "random": "random/metrics/reinforce",
            "finetuned": "finetune/metrics/midtrain",
        }
        paths = {name: self.folder / f"{file}.json" for name, file in files.items()}
        return {name: json.loads(path.read_text(encoding="utf-8"))["seconds"] for name, path in paths.items()}

    def _untrained(self, target: Path, like: Path) -> None:
        if target.exists():
            return
        transformer = Transformer(load_config().model_config())
        transformer.init_weights(self.seed)
        names = ("tokenizer.json", "tokenizer_config.json")
        transformer.save_pretrained(target, {name: (like / name).read_bytes() for name in names})

    def _stage(self, folder: Path, stage: str, *overrides: str) -> None:
        if (folder / "metrics" / f"{stage}.json").exists():
            return
        sets = [word for override in (f"seed={self.seed}", *overrides) for word in ("--set", override)]
        run_program(f"seed {self.seed} {folder.name}", folder, [f"tasks.{stage}", *sets])

    def _score(self, name: str, checkpoint: Path) -> Any:
        out = self.folder / f"score-{name}.json"
        if not out.exists():
            sets = [word for override in self.scoring for word in ("--set", override)]
            program = ["tasks.benchmarks.score", str(checkpoint.resolve()), str(out.resolve()), *sets]
            run_program(f"seed {self.seed} score {name}", self.arm("base"), program)
        return json.loads(out.read_text(encoding="utf-8"))


def agent_step_seconds(log: Path) -> float:
    """Mean seconds of a step of the agent phase, from the tokens a second that midtraining printed."""
    speeds = [float(speed) for speed in re.findall(r"phase agent .* tok/s (\d+)", log.read_text(encoding="utf-8"))]
    midtrain = load_config().midtrain
    return fmean(midtrain.agent_batch * midtrain.agent_context / speed for speed in speeds)


def _unmeasured() -> str:
    """The override that leaves RL's own evaluations out: every arm is scored in the same way at the end."""
    families = load_config().reinforce.evaluation
    return f"reinforce.evaluation={{{', '.join(f'{family}: 0' for family in families)}}}"


class EvidenceError(RuntimeError):
    """A program of an arm failed; the message names its log."""


def run_program(title: str, folder: Path, program: Sequence[str]) -> None:
    """`python -m PROGRAM` inside `folder`, its output in run.log there."""
    print(f"[evidence] {title}: {' '.join(program)}", flush=True)
    log = folder / "run.log"
    with log.open("ab") as stream:
        done = subprocess.run(
            [sys.executable, "-m", *program], cwd=folder, stdout=stream, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode != 0:
        raise EvidenceError(f"The arm {title!r} failed with status {done.returncode}; its log is {log}.")


def link(path: Path, target: Path) -> None:
    """A symbolic link from `path` to `target`, unless something is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.unlink(missing_ok=True)
        path.symlink_to(target.resolve())
