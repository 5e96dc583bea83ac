"""What all networks of the evidence share: plan, material, parts, sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from model import ModelConfig, Transformer
from tasks.benchmarks.dsa.material import Material, description
from tasks.benchmarks.dsa.parts import Parts
from tasks.benchmarks.dsa.plan import INDEXER, Plan, teaching_rows
from tasks.training.loop import Report, Run, train
from tasks.training.resume import ResumeState
from tasks.training.schedule import Phase

NEVER = 1 << 62  # a part is trained whole or again
SEED_STEP = 1_000  # between the data of two phases of one seed


@dataclass(frozen=True)
class Bench:
    """What all networks share."""

    plan: Plan
    material: Material
    parts: Parts

    def configured(self, length: int, **changes: int) -> ModelConfig:
        """The network of params.yaml for rows of this length, without its MTP layer, which no selection concerns."""
        config = self.plan.config.model_config()
        longest, teaching = max(length, config.max_position_embeddings), teaching_rows(length)
        sizes: dict[str, Any] = {"max_position_embeddings": longest, "indexer_loss_rows": teaching, **changes}
        return replace(config, num_nextn_predict_layers=0, **sizes)

    def model_config(self, length: int, **changes: int) -> ModelConfig:
        """The same with the evidence's indexer."""
        return self.configured(length, **INDEXER, **changes)

    def definition(self, **values: Any) -> dict[str, Any]:
        """Of a part: the corpus, and what is given."""
        return {"corpus": self.material.fingerprint, "heldout": description(), **values}

    def train(self, transformer: Transformer, phases: Sequence[Phase], seed: int, report: Report | None = None) -> int:
        """Runs the phases; returns the steps that were made."""
        length, name = phases[-1].context, "evidence-dsa"
        state = ResumeState(name, {}, self.parts.root / "state")  # never written: a part is trained whole
        sources = self.material.sources(length)
        return len(train(transformer, Run(name, phases, sources, seed, state, report or _silent, save_every=NEVER)))


def _silent(step: int, metrics: Mapping[str, float]) -> None:
    """Reports nothing; the loop prints its own lines."""
