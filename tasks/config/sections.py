"""The sections of `params.yaml`, one frozen dataclass a stage; strict types, unknown keys refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from pydantic import (
    ConfigDict,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)

from tasks.config.errors import ConfigError, describe, unknown_key
from tasks.config.values import (
    FamilyCounts,
    FamilyRates,
    FamilyShares,
    FamilyTasks,
    OptionalFamilyShares,
    Probability,
    Share,
    SourceShares,
)

if TYPE_CHECKING:
    from model import ModelConfig

STRICT = ConfigDict(extra="forbid", strict=True)


def _check_sharding(optimizer: str, zero_stage: int) -> None:
    if zero_stage not in range(4):
        raise ValueError(f"zero_stage must be 0, 1, 2 or 3, not {zero_stage}.")
    if optimizer == "muon" and zero_stage:
        raise ValueError(f"the optimizer 'muon' needs zero_stage 0, not {zero_stage}; choose 'adamw' with it.")


@dataclass(frozen=True)
class DemonstrateConfig:
    """Expert demonstrations, executed for real."""

    __pydantic_config__ = STRICT
    counts: FamilyCounts = field(default_factory=dict)  # family -> training demonstrations
    heldout: NonNegativeInt = 400  # held-out tasks a family, listed for decontamination
    slip_rates: FamilyRates = field(default_factory=dict)  # family -> how often its expert slips; 0 where not named


@dataclass(frozen=True)
class CurateConfig:
    """Raw text to packed token shards."""

    __pydantic_config__ = STRICT
    sources: tuple[str, ...] = ("machine",)
    s3_endpoint_url: str = ""  # empty: the environment's AWS_ENDPOINT_URL
    max_bytes: PositiveInt = 22_000_000  # UTF-8 bytes read, all sources together
    max_document_bytes: PositiveInt = 200_000
    minimum_documents: NonNegativeInt = 20  # the gate refuses a smaller batch
    minimum_bytes: NonNegativeInt = 100_000
    heldout_fraction: Probability = 0.03  # of the documents, by the hash of their text
    tokenizer_bytes: PositiveInt = 4_000_000  # sample of the corpus that trains the tokenizer
    demonstration_weight: float = 1.0  # weight of the demonstrations' text beside that sample
    shard_tokens: PositiveInt = 16_000_000
    workers: PositiveInt = 2


@dataclass(frozen=True)
class PretrainConfig:
    """Dense pretraining at short context."""

    __pydantic_config__ = STRICT
    steps: PositiveInt = 400
    batch: PositiveInt = 16  # rows a step, over all ranks
    context: PositiveInt = 256  # tokens a row
    optimizer: Literal["muon", "adamw"] = "muon"
    muon_lr: float = 0.02
    adamw_lr: float = 3e-3
    decay: Share = 0.3  # share of the steps over which the learning rate falls
    copy_steps: NonNegativeInt = 200  # at most, of repeated letters alone, before the text
    copy_batch: PositiveInt = 32
    copy_context: PositiveInt = 64
    copy_loss: float = 1.6  # ends them: copying has formed
    repeat_share: Share = 0.2  # of the rows of text: random strings repeated at once, so that copying stays
    zero_stage: int = 0  # DeepSpeed ZeRO; stages 1-3 need the optimizer adamw
    dtype: Literal["float32", "bfloat16"] = "float32"
    heldout_windows: PositiveInt = 160

    def __post_init__(self) -> None:
        """Raises ValueError where the optimizer cannot be sharded so."""
        _check_sharding(self.optimizer, self.zero_stage)


@dataclass(frozen=True)
class MidtrainConfig:
    """Context extension, DSA warm-up, sparse training, agent trajectories."""

    __pydantic_config__ = STRICT
    context: PositiveInt = 1024  # tokens a row
    batch: PositiveInt = 4  # rows a step, over all ranks
    dense_steps: NonNegativeInt = 40  # dense attention at the longer context
    indexer_steps: NonNegativeInt = 20  # DSA warm-up: only the indexer learns
    sparse_steps: NonNegativeInt = 100  # sparse attention on the mixture
    agent_steps: NonNegativeInt = 60  # dense attention, expert trajectories dominating
    agent_batch: PositiveInt = 8  # rows a step of that phase
    agent_context: PositiveInt = 256  # tokens a row of it: an episode is short, and short rows cost less
    optimizer: Literal["muon", "adamw"] = "muon"
    muon_lr: float = 0.02
    adamw_lr: float = 3e-3
    indexer_lr: float = 1e-2
    decay: Share = 0.6  # share of the last phase over which the learning rate falls
    mixture: SourceShares = field(default_factory=dict)  # source -> share of the rows
    agent_mixture: SourceShares = field(default_factory=dict)
    families: OptionalFamilyShares = field(default_factory=dict)  # share of transcripts; {}: all alike
    trajectory_weight: float = 1.0  # loss weight of the tokens that the expert wrote
    other_weight: float = 0.1  # of instructions and observations, and of text among trajectories
    zero_stage: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    heldout_windows: PositiveInt = 40
    retrieval_documents: PositiveInt = 32

    def __post_init__(self) -> None:
        """Raises ValueError where the optimizer cannot be sharded so."""
        _check_sharding(self.optimizer, self.zero_stage)


@dataclass(frozen=True)
class ReinforceConfig:
    """Asynchronous reinforcement learning."""

    __pydantic_config__ = STRICT
    updates: PositiveInt = 22  # learner steps; each publishes a policy
    groups_per_batch: PositiveInt = 16
    samples_per_group: PositiveInt = 8
    families: FamilyShares = field(default_factory=lambda: {"shell": 1.0})  # family -> share of the groups
    reward: Literal["judge", "random"] = "judge"
    objective: Literal["glm5_agentic", "grpo_icepop", "decoupled_ppo"] = "glm5_agentic"
    clip_low: float = 0.2
    clip_high: float = 0.28
    icepop_beta: float = 2.0
    eta: NonNegativeInt = 1  # batches that rollout may run ahead; 0 is synchronous
    max_staleness: NonNegativeInt = 4  # tau: older trajectories are dropped
    oversample: PositiveInt = 6  # batches' worth of groups after which a batch closes although it is not full
    learning_rate: PositiveFloat = 3e-4
    beta2: float = 0.99
    gradient_clip: PositiveFloat = 1.0
    optimizer_steps: PositiveInt = 2  # parts a batch is split into, one optimizer step each
    reset_optimizer: bool = False  # forget the optimizer's state after every published policy
    micro_batch_tokens: PositiveInt = 4096
    max_action_tokens: PositiveInt = 24
    max_context: PositiveInt = 1024
    concurrency: PositiveInt = 48  # episodes that run at once in a rollout worker
    rollout_workers: PositiveInt = 1
    judge_workers: PositiveInt = 1
    threads: PositiveInt = 1  # torch threads of each worker
    lease_seconds: PositiveFloat = 60.0
    keep_policies: PositiveInt = 4
    evaluation: FamilyCounts = field(default_factory=dict)  # family -> held-out tasks, before and after


@dataclass(frozen=True)
class EvaluateConfig:
    """Held-out benchmarks, of the candidate and of the checkpoint before RL, on the same tasks and seeds."""

    __pydantic_config__ = STRICT
    tasks: FamilyTasks = field(default_factory=lambda: {"shell": 50})  # family -> held-out tasks
    samples: PositiveInt = 8  # episodes a task at temperature 1; one more is greedy
    first_seed: int = 0
    concurrency: PositiveInt = 96  # episodes that run at once
    max_action_tokens: PositiveInt = 24
    max_context: PositiveInt = 1024
    heldout_windows: PositiveInt = 24
    retrieval_documents: PositiveInt = 16
    humaneval_problems: PositiveInt = 164
    humaneval_tokens: PositiveInt = 64  # sampled a problem at most
    threads: PositiveInt = 1  # torch threads; boxes and judges take the rest


@dataclass(frozen=True)
class PromoteConfig:
    """Registry and gate."""

    __pydantic_config__ = STRICT
    name: str = "longhaul"  # of the registered model
    margin: NonNegativeFloat = 0.02  # loss of mean pass@1 against a champion that still counts as not worse
    confidence: Probability = 0.95  # of the one-sided interval


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

    def __post_init__(self) -> None:
        """Raises ValueError where a context is longer than the positions of the model."""
        limit = self.model.get("max_position_embeddings")
        for key, length in self._contexts().items():
            if isinstance(limit, int) and length > limit:
                raise ValueError(
                    f"The key {key!r} in params.yaml is {length}, more than model.max_position_embeddings, {limit}."
                )

    def _contexts(self) -> dict[str, int]:
        """The keys that say how many tokens the network sees at once."""
        return {
            "pretrain.context": self.pretrain.context,
            "midtrain.context": self.midtrain.context,
            "midtrain.agent_context": self.midtrain.agent_context,
            "reinforce.max_context": self.reinforce.max_context,
            "evaluate.max_context": self.evaluate.max_context,
        }

    def model_config(self) -> ModelConfig:
        """The `model` section as the network's own configuration. Imports torch, hence a method."""
        from model import ModelConfig

        keys = [f"model.{field.name}" for field in fields(ModelConfig)]
        for name in self.model:
            if f"model.{name}" not in keys:
                raise ConfigError(unknown_key(f"model.{name}", keys))
        try:
            return TypeAdapter(ModelConfig).validate_json(json.dumps(self.model), strict=True)
        except (ValidationError, ValueError) as error:
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
