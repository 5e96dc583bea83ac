"""The sections of `params.yaml`, one frozen dataclass a stage; strict types, unknown keys refused.

No key has a default: the file says every number, and DVC, which reads the file alone, sees whatever changes a result.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from pydantic import (
    ConfigDict,
    NonNegativeFloat,
    PositiveFloat,
    TypeAdapter,
    ValidationError,
)

from tasks.config.errors import ConfigError, describe, unknown_key
from tasks.config.limits import contradictions
from tasks.config.values import (
    Bytes,
    Count,
    Endpoint,
    FamilyCounts,
    FamilyRates,
    FamilyShares,
    FamilyTasks,
    LeastBytes,
    ModelName,
    MoreThanOne,
    OptionalFamilyShares,
    Places,
    Probability,
    Problems,
    Samples,
    Seconds,
    Seed,
    ShardTokens,
    Share,
    Size,
    Sources,
    SourceShares,
    Workers,
)

if TYPE_CHECKING:
    from model import ModelConfig

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _check_sharding(optimizer: str, zero_stage: int) -> None:
    if zero_stage not in range(4):
        raise ValueError(f"zero_stage must be 0, 1, 2 or 3, not {zero_stage}.")
    if optimizer == "muon" and zero_stage:
        raise ValueError(f"the optimizer 'muon' needs zero_stage 0, not {zero_stage}; choose 'adamw' with it.")


@dataclass(frozen=True)
class DemonstrateConfig:
    """Expert demonstrations, executed for real."""

    __pydantic_config__ = STRICT
    counts: FamilyCounts  # family -> training demonstrations
    heldout: Count  # held-out tasks a family, listed for decontamination
    slip_rates: FamilyRates  # family -> how often its expert slips; 0 where not named


@dataclass(frozen=True)
class CurateConfig:
    """Raw text to packed token shards."""

    __pydantic_config__ = STRICT
    sources: Sources
    s3_endpoint_url: Endpoint  # empty: the environment's AWS_ENDPOINT_URL
    max_bytes: Bytes  # UTF-8 bytes read, all sources together
    max_document_bytes: Bytes
    minimum_documents: Count  # the gate refuses a smaller batch
    minimum_bytes: LeastBytes
    heldout_fraction: Probability  # of the documents, by the hash of their text
    tokenizer_bytes: Bytes  # sample of the corpus that trains the tokenizer
    demonstration_weight: PositiveFloat  # weight of the demonstrations' text beside that sample
    shard_tokens: ShardTokens
    workers: Workers


@dataclass(frozen=True)
class PretrainConfig:
    """Dense pretraining at short context."""

    __pydantic_config__ = STRICT
    steps: Size
    batch: Size  # rows a step, over all ranks
    context: Size  # tokens a row
    optimizer: Literal["muon", "adamw"]
    muon_lr: PositiveFloat
    adamw_lr: PositiveFloat
    decay: Share  # share of the steps over which the learning rate falls
    copy_steps: Count  # at most, of repeated letters alone, before the text
    copy_batch: Size
    copy_context: Size
    copy_loss: NonNegativeFloat  # ends them: copying has formed
    repeat_share: Share  # of the rows of text: random strings repeated at once, so that copying stays
    zero_stage: int  # DeepSpeed ZeRO; stages 1-3 need the optimizer adamw
    dtype: Literal["float32", "bfloat16"]
    heldout_windows: Size

    def __post_init__(self) -> None:
        """Raises ValueError where the optimizer cannot be sharded so."""
        _check_sharding(self.optimizer, self.zero_stage)


@dataclass(frozen=True)
class MidtrainConfig:
    """Context extension, DSA warm-up, sparse training, agent trajectories."""

    __pydantic_config__ = STRICT
    context: Size  # tokens a row
    batch: Size  # rows a step, over all ranks
    dense_steps: Count  # dense attention at the longer context
    indexer_steps: Count  # DSA warm-up: only the indexer learns
    sparse_steps: Count  # sparse attention on the mixture
    agent_steps: Count  # dense attention, expert trajectories dominating
    agent_batch: Size  # rows a step of that phase
    agent_context: Size  # tokens a row of it: an episode is short, and short rows cost less
    optimizer: Literal["muon", "adamw"]
    muon_lr: PositiveFloat
    adamw_lr: PositiveFloat
    indexer_muon_lr: PositiveFloat  # of the indexers' matrices in their warm-up, where the optimizer is Muon
    indexer_lr: PositiveFloat  # of what AdamW takes in it
    decay: Share  # share of the last phase over which the learning rate falls
    mixture: SourceShares  # source -> share of the rows
    agent_mixture: SourceShares
    families: OptionalFamilyShares  # share of transcripts; {}: all alike
    trajectory_weight: PositiveFloat  # loss weight of the tokens that the expert wrote
    other_weight: NonNegativeFloat  # of instructions and observations, and of text among trajectories
    zero_stage: int
    dtype: Literal["float32", "bfloat16"]
    heldout_windows: Size
    retrieval_documents: Size

    def __post_init__(self) -> None:
        """Raises ValueError where the optimizer cannot be sharded so, or no token weighs as the expert's."""
        _check_sharding(self.optimizer, self.zero_stage)
        if self.trajectory_weight <= self.other_weight:
            raise ValueError(
                f"trajectory_weight must be more than other_weight, {self.other_weight}, not {self.trajectory_weight}."
            )


@dataclass(frozen=True)
class ReinforceConfig:
    """Asynchronous reinforcement learning."""

    __pydantic_config__ = STRICT
    updates: Size  # learner steps; each publishes a policy
    groups_per_batch: Size
    samples_per_group: Samples
    families: FamilyShares  # family -> share of the groups
    reward: Literal["judge", "random"]
    objective: Literal["glm5_agentic", "grpo_icepop", "decoupled_ppo"]
    clip_low: PositiveFloat  # importance ratios are bounded by 1 - clip_low and 1 + clip_high
    clip_high: PositiveFloat
    icepop_beta: MoreThanOne  # grpo_icepop drops tokens whose trainer and sampler differ by more than this factor
    eta: Count  # batches that rollout may run ahead; 0 is synchronous
    max_staleness: Count  # tau: older trajectories are dropped
    oversample: Size  # batches' worth of groups after which a batch closes although it is not full
    learning_rate: PositiveFloat
    beta2: Probability
    gradient_clip: PositiveFloat
    optimizer_steps: Size  # parts a batch is split into, one optimizer step each
    reset_optimizer: bool  # forget the optimizer's state after every published policy
    micro_batch_tokens: Size
    max_action_tokens: Size
    max_context: Size
    concurrency: Places  # episodes that run at once in a rollout worker
    rollout_workers: Workers
    judge_workers: Workers
    threads: Workers  # torch threads of each worker
    lease_seconds: Seconds
    keep_policies: Size
    evaluation: FamilyCounts  # family -> held-out tasks, before and after


@dataclass(frozen=True)
class EvaluateConfig:
    """Held-out benchmarks, of the candidate and of the checkpoint before RL, on the same tasks and seeds."""

    __pydantic_config__ = STRICT
    tasks: FamilyTasks  # family -> held-out tasks
    samples: Size  # episodes a task at temperature 1; one more is greedy
    first_seed: Seed
    concurrency: Places  # episodes that run at once
    max_action_tokens: Size
    max_context: Size
    heldout_windows: Size
    retrieval_documents: Size
    humaneval_problems: Problems
    humaneval_tokens: Size  # sampled a problem at most
    threads: Workers  # torch threads; boxes and judges take the rest


@dataclass(frozen=True)
class PromoteConfig:
    """Registry and gate."""

    __pydantic_config__ = STRICT
    name: ModelName  # of the registered model
    margin: Share  # loss of mean pass@1 against a champion that still counts as not worse
    confidence: Probability  # of the one-sided interval


@dataclass(frozen=True)
class Config:
    """All of `params.yaml` after the profile and the overrides were applied."""

    __pydantic_config__ = STRICT
    profile: str
    seed: Seed
    model: Mapping[str, Any]
    demonstrate: DemonstrateConfig
    curate: CurateConfig
    pretrain: PretrainConfig
    midtrain: MidtrainConfig
    reinforce: ReinforceConfig
    evaluate: EvaluateConfig
    promote: PromoteConfig

    def __post_init__(self) -> None:
        """Raises ValueError with a sentence where values contradict each other."""
        for sentence in contradictions(self):
            raise ValueError(sentence)

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
