"""The arms of the evidence: each a folder of its own in which the ordinary stage programs run.

seed-N/base      pretrain, midtrain, reinforce (judge's rewards)
seed-N/random    the same midtrained model, random rewards, the same number of updates
seed-N/finetune  the same midtrained model, midtrained again with the processor time that RL had
seed-N/scratch   midtraining of an untrained model, the same steps

A part whose result is there is not run again, so that an interrupted run goes on. The arms live in a folder named by
a hash of parameters and data: what other settings left is never taken for theirs.

Computing is counted in processor seconds of a program and all it started, so that what else runs on the machine
does not favour an arm. What an attempt spent that was killed is not counted.
"""

from __future__ import annotations

import hashlib
import json
import os
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
from tasks.config import Config, load_config
from tasks.errors import MachineError
from tasks.tracking import fingerprint
from tasks.tracking.provenance import stage_params

DATA = (Path("data/corpus"), Path("data/demonstrations"))
STAGES = ("pretrain", "midtrain", "reinforce")
ARMS = ("base", "random", "finetune", "scratch")


@dataclass(frozen=True)
class Evidence:
    """Where the arms of one seed live, and on what they are scored."""

    root: Path  # .longhaul/evidence/<hash of settings and data>
    seed: int
    scoring: Sequence[str]  # overrides of the `evaluate` section
    threads: int  # of each training program

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
        """Midtraining again from its own result, with as many agent steps as RL's processor time pays for."""
        folder = self.arm("finetune")
        link(folder / "checkpoints" / "pretrain", base / "checkpoints" / "midtrain")
        steps = finetuning_steps(base, cpu_seconds(base, "reinforce"))
        self._stage(folder, "midtrain", f"midtrain.agent_steps={steps}")

    def seconds(self) -> dict[str, float]:
        """Processor seconds of RL, its control and more fine-tuning."""
        arms = {"rl": ("base", "reinforce"), "random": ("random", "reinforce"), "finetuned": ("finetune", "midtrain")}
        return {name: cpu_seconds(self.folder / arm, stage) for name, (arm, stage) in arms.items()}

    def _untrained(self, target: Path, like: Path) -> None:
        if target.exists():
            return
        transformer = Transformer(load_config().model_config(), self.seed)
        names = ("tokenizer.json", "tokenizer_config.json")
        transformer.save_pretrained(target, {name: (like / name).read_bytes() for name in names})

    def _stage(self, folder: Path, stage: str, *overrides: str) -> None:
        if cpu_path(folder, stage).exists():
            return
        sets = [word for override in (f"seed={self.seed}", *overrides) for word in ("--set", override)]
        title = f"seed {self.seed} {folder.name}"
        spent = run_program(title, folder, [f"tasks.{stage}", *sets], self.threads)
        cpu_path(folder, stage).write_text(json.dumps(spent), encoding="utf-8")

    def _score(self, name: str, checkpoint: Path) -> Any:
        out = self.folder / f"score-{name}.json"
        if not out.exists():
            sets = [word for override in self.scoring for word in ("--set", override)]
            program = ["tasks.benchmarks.score", str(checkpoint.resolve()), str(out.resolve()), *sets]
            run_program(f"seed {self.seed} score {name}", self.arm("base"), program, self.threads)
        return json.loads(out.read_text(encoding="utf-8"))


def settings_hash(config: Config, scoring: Sequence[str]) -> str:
    """12 hex digits of all that decides the arms' results but the code: parameters, data, what they are scored on."""
    params = {stage: stage_params(stage, config) | {"seed": None} for stage in STAGES}
    content = [params, list(scoring), [fingerprint(place) for place in DATA]]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]


def cpu_path(folder: Path, stage: str) -> Path:
    """Written when the stage is done."""
    return folder / "metrics" / f"{stage}.cpu"


def cpu_seconds(folder: Path, stage: str) -> float:
    """Processor seconds of a stage of an arm."""
    return float(cpu_path(folder, stage).read_text(encoding="utf-8"))


def finetuning_steps(base: Path, budget: float) -> int:
    """Steps of the agent phase with which midtraining costs `budget` processor seconds, judged by how `base` went."""
    metrics = json.loads((base / "metrics/midtrain.json").read_text(encoding="utf-8"))
    spent, agent_steps = cpu_seconds(base, "midtrain"), load_config().midtrain.agent_steps
    a_step = agent_step_seconds(base / "run.log") * spent / float(metrics["seconds"])
    return max(1, round((budget - (spent - agent_steps * a_step)) / a_step))


def agent_step_seconds(log: Path) -> float:
    """Mean seconds of a step of the agent phase, from the tokens a second that midtraining printed."""
    speeds = [float(speed) for speed in re.findall(r"phase agent .* tok/s (\d+)", log.read_text(encoding="utf-8"))]
    midtrain = load_config().midtrain
    return fmean(midtrain.agent_batch * midtrain.agent_context / speed for speed in speeds)


def _unmeasured() -> str:
    """The override that leaves RL's own evaluations out: every arm is scored in the same way at the end."""
    families = load_config().reinforce.evaluation
    return f"reinforce.evaluation={{{', '.join(f'{family}: 0' for family in families)}}}"


class EvidenceError(MachineError):
    """A program of an arm failed; the message names its log."""


def run_program(title: str, folder: Path, program: Sequence[str], threads: int) -> float:
    """`python -m PROGRAM` inside `folder`, its output in run.log there; the processor seconds it and its own took."""
    print(f"[evidence] {title}: {' '.join(program)}", flush=True)
    log = folder / "run.log"
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    with log.open("ab") as stream:
        command = [sys.executable, "-m", *program]
        process = subprocess.Popen(command, cwd=folder, stdout=stream, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # wait4 took it; Popen must not wait again
    if process.returncode != 0:
        raise EvidenceError(f"The arm {title!r} failed with status {process.returncode}; its log is {log}.")
    return round(usage.ru_utime + usage.ru_stime, 2)


def link(path: Path, target: Path) -> None:
    """A symbolic link from `path` to `target`, unless something is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.unlink(missing_ok=True)
        path.symlink_to(target.resolve())
