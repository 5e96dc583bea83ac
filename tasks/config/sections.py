"""The sections of `params.yaml`, one frozen dataclass a stage; strict types, unknown keys refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from tasks.config.errors import ConfigError, describe

if TYPE_CHECKING:
    from model import ModelConfig

STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True)
class DemonstrateConfig:
    """Expert demonstrations, executed for real."""

    __pydantic_config__ = STRICT
    counts: Mapping[str, int] = field(default_factory=dict)  # family -> training demonstrations
    heldout: int = 400  # held-out tasks a family, listed for decontamination
    slip_rate: float = 0.6


@dataclass(frozen=True)
class CurateConfig:
    """Raw text to packed token shards."""

    __pydantic_config__ = STRICT
    sources: tuple[str, ...] = ("machine",)
    max_bytes: int = 24_000_000
    heldout_fraction: float = 0.03


@dataclass(frozen=True)
class PretrainConfig:
    """Dense pretraining at short context."""

    __pydantic_config__ = STRICT
    steps: int = 400
    batch: int = 16
    context: int = 256


@dataclass(frozen=True)
class MidtrainConfig:
    """Context extension, DSA warm-up, sparse training, agent trajectories."""

    __pydantic_config__ = STRICT
    context: int = 1024


@dataclass(frozen=True)
class ReinforceConfig:
    """Asynchronous reinforcement learning."""

    __pydantic_config__ = STRICT
    updates: int = 60


@dataclass(frozen=True)
class EvaluateConfig:
    """Held-out benchmarks."""

    __pydantic_config__ = STRICT
    samples: int = 8


@dataclass(frozen=True)
class PromoteConfig:
    """Registry and gate."""

    __pydantic_config__ = STRICT
    name: str = "longhaul"


@dataclass(frozen=True)
class Config:
    """All of `params.yaml` after the profile and the overrides were applied."""

    __pydantic_config__ = STRICT
    profile: str
    seed: int
    model: Mapping[str, Any]
    demonstrate: DemonstrateConfig
    curate: CurateConfig
    pretrain: PretrainConfig
    midtrain: MidtrainConfig
    reinforce: ReinforceConfig
    evaluate: EvaluateConfig
    promote: PromoteConfig

    def model_config(self) -> ModelConfig:
        """The `model` section as the network's own configuration. Imports torch, hence a method."""
        from model import ModelConfig

        try:
            return TypeAdapter(ModelConfig).validate_python(dict(self.model))
        except (ValidationError, TypeError, ValueError) as error:
            keys = [f"model.{field.name}" for field in fields(ModelConfig)]
            raise ConfigError(describe(error, "model", keys)) from error


SECTIONS = (
    DemonstrateConfig,
    CurateConfig,
    PretrainConfig,
    MidtrainConfig,
    ReinforceConfig,
    EvaluateConfig,
    PromoteConfig,
)


def known_keys() -> list[str]:
    """Every dotted key the file may hold, `model.*` aside."""
    stages = {section.__name__.removesuffix("Config").lower(): section for section in SECTIONS}
    inner = [f"{stage}.{key.name}" for stage, section in stages.items() for key in fields(section)]
    return [key.name for key in fields(Config)] + inner
