"""One arm: the laptop's network trained from one seed, dense and then sparse, by the stages' own trainer."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from model import Transformer
from tasks.benchmarks.dsa.material import Material
from tasks.benchmarks.rounding.gradients import agreements
from tasks.config import Config
from tasks.training.data import Mode, Row, stack
from tasks.training.loop import Run, train
from tasks.training.resume import ResumeState
from tasks.training.schedule import Phase
from tasks.training.settings import OptimizerSettings

NAMES = ("fp32", "bf16", "shaken")
SHAKE = 1e-6  # relative change of the initial weights in the arm "shaken": about fp32's own rounding
NEVER = 1 << 62  # steps between two saved states: an arm is trained whole
DENSE_SHARES = {"corpus": 0.8, "letters": 0.1, "tokens": 0.1}
LONG_SHARES = {"corpus": 0.7, "retrieval": 0.3}


@dataclass(frozen=True)
class Plan:
    """Steps and looks of every arm; batches, contexts and rates are those of `pretrain` and `midtrain`."""

    dense_steps: int = 100
    indexer_steps: int = 10
    sparse_steps: int = 16
    every: int = 10  # steps between two looks at held-out text
    look_rows: int = 16  # of pretraining's context
    final_rows: int = 24  # of midtraining's context


@dataclass(frozen=True)
class Arm:
    """`fp32`, `bf16` (the same under autocast), or `shaken`: fp32 from weights changed by a millionth."""

    name: str
    seed: int
    config: Config
    plan: Plan
    corpus: Path
    threads: int

    def run(self) -> dict[str, Any]:
        """Losses at every step and look, held-out nats of every final window, and what it cost."""
        torch.set_num_threads(self.threads)
        material, network = Material.read(self.corpus), self._network()
        looks = material.text(self.plan.look_rows * self.config.pretrain.context, self.config.pretrain.context)
        begins = agreements(network, material, self.config, self.seed) if self.name == "fp32" else {}
        points = [{"step": 0, "loss": _mean(heldout(network, looks, "dense"))}]
        losses: list[float] = []

        def report(step: int, metrics: Mapping[str, float]) -> None:
            losses.append(metrics["lm"])
            if step % self.plan.every == 0:
                points.append({"step": step, "loss": _mean(heldout(network, looks, "dense"))})

        seconds = self._train(network, material, report)
        length = self.config.midtrain.context
        final = heldout(network, material.text(self.plan.final_rows * length, length), "sparse")
        ends = agreements(network, material, self.config, self.seed) if self.name == "fp32" else {}
        return {
            "name": self.name, "seed": self.seed, "seconds": seconds, "losses": losses, "points": points,
            "final": final, "gradients": {"start": begins, "end": ends},
        }  # fmt: skip

    def phases(self) -> list[Phase]:
        """Dense at pretraining's context; then the indexer alone and all of it sparse, at midtraining's."""
        short, long = self.config.pretrain, self.config.midtrain
        dtype: Literal["float32", "bfloat16"] = "bfloat16" if self.name == "bf16" else "float32"
        dense, sparse = (replace(OptimizerSettings.of(section), dtype=dtype) for section in (short, long))
        indexer = replace(OptimizerSettings.of_warmup(long), dtype=dtype)
        size = (long.batch, long.context, LONG_SHARES)
        return [
            Phase("dense", "dense", self.plan.dense_steps, short.batch, short.context, DENSE_SHARES, dense),
            Phase("indexer", "warmup", self.plan.indexer_steps, *size, indexer, train="indexer"),
            Phase("sparse", "sparse", self.plan.sparse_steps, *size, sparse, decay=long.decay),
        ]

    def _network(self) -> Transformer:
        network = Transformer(self.config.model_config())
        network.init_weights(self.seed)
        if self.name == "shaken":
            generator = torch.Generator().manual_seed(self.seed)
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.mul_(1 + SHAKE * torch.randn(parameter.shape, generator=generator))
        return network

    def _train(self, network: Transformer, material: Material, report: Any) -> float:
        """Processor seconds of the steps and looks."""
        begin, sources = time.process_time(), material.sources(self.config.midtrain.context)
        with tempfile.TemporaryDirectory() as folder:
            state = ResumeState("precision", {}, Path(folder))
            title = f"{self.name} {self.seed}"
            train(network, Run(title, self.phases(), sources, self.seed, state, report, save_every=NEVER))
        return round(time.process_time() - begin, 1)


@torch.no_grad()
def heldout(network: Transformer, rows: list[Row], mode: Mode) -> list[float]:
    """Mean nats a token of each window, computed in fp32 whatever the arm; the first token is not predicted."""
    found: list[float] = []
    for start in range(0, len(rows), 8):
        batch = stack(rows[start : start + 8])
        found += (-network.log_probs(batch.token_ids, None, mode)[:, 1:].double().mean(1)).tolist()
    return found


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def described(plan: Plan) -> dict[str, int]:
    """For the metrics."""
    return asdict(plan)
