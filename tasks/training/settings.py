"""What the optimizer and the engine are told; no torch here, so that configuration stays quick to read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tasks.config.sections import MidtrainConfig, PretrainConfig

Trained = Literal["all", "indexer", "backbone"]  # which parameters move
WARMUP_MOMENTUM = 0.8  # Muon's usual 0.95 averages over twenty steps, and an indexer's warm-up may have sixteen


@dataclass(frozen=True)
class OptimizerSettings:
    """Learning rates are peaks: the schedule multiplies them.

    `muon` takes hidden matrices (with Muon Split over the MLA up-projections), AdamW the rest;
    where the indexers learn alone, it takes their matrices.
    Muon needs whole matrices, so it goes with ZeRO stage 0; stages 1-3 shard flat buffers and
    take `adamw`. `bfloat16` is autocast over fp32 weights:
    `kernels.precision` says what it rounds.
    """

    name: Literal["muon", "adamw"] = "muon"
    muon_lr: float = 0.02
    momentum: float = 0.95  # Muon's
    adamw_lr: float = 3e-3
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.0
    clip: float = 1.0
    zero_stage: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"

    @classmethod
    def of(cls, section: PretrainConfig | MidtrainConfig) -> OptimizerSettings:
        """What a section of `params.yaml` says of the optimizer; the rest as above."""
        return cls(
            name=section.optimizer,
            muon_lr=section.muon_lr,
            adamw_lr=section.adamw_lr,
            zero_stage=section.zero_stage,
            dtype=section.dtype,
        )

    @classmethod
    def of_warmup(cls, section: MidtrainConfig) -> OptimizerSettings:
        """Of the phase in which the indexers alone learn: the section's, at their rates and with a short memory."""
        matrices, rest = section.indexer_muon_lr, section.indexer_lr
        return replace(cls.of(section), momentum=WARMUP_MOMENTUM, muon_lr=matrices, adamw_lr=rest)

    def __post_init__(self) -> None:
        if self.zero_stage not in (0, 1, 2, 3):
            raise ValueError(f"zero_stage must be 0, 1, 2 or 3, not {self.zero_stage}.")
        if self.name == "muon" and self.zero_stage:
            raise ValueError(
                f"The optimizer 'muon' needs zero_stage 0 because stage {self.zero_stage} shards flat buffers; "
                "choose the optimizer 'adamw' with it."
            )
