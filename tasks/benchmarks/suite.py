"""All benchmarks of one model, as `params.yaml` (section `evaluate`) asks for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from model import Transformer
from model.engine import Engine
from tasks.benchmarks import language
from tasks.benchmarks.agentic import Outcome, episode_specs, evaluate_episodes, heldout_tasks
from tasks.benchmarks.humaneval import Attempt, evaluate_humaneval
from tasks.config.sections import EvaluateConfig
from tasks.environments.chat import Chat, read_tokenizer
from tasks.rl.agent import AgentLimits, BoxFactory, EpisodeSpec
from tasks.statistics import Estimate

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Subject:
    """A checkpoint under measurement."""

    folder: Path
    transformer: Transformer
    tokenizer: Tokenizer
    engine: Engine

    @classmethod
    def load(cls, folder: Path, settings: EvaluateConfig) -> Subject:
        """Raises CheckpointError or ChatError if the folder is damaged."""
        transformer = Transformer.from_pretrained(folder)
        transformer.eval().requires_grad_(False)  # no gradients, and the indexer's loss is not computed
        engine = Engine(transformer, settings.concurrency, settings.max_context, mode="sparse")
        tokenizer = read_tokenizer(folder / "tokenizer.json", transformer.config.vocab_size)
        return cls(folder, transformer, tokenizer, engine)


def specs(settings: EvaluateConfig) -> list[EpisodeSpec]:
    """Every episode of the suite: `samples` at temperature 1 and one greedy on each task held out for evaluation."""
    tasks = [
        task
        for family, count in settings.tasks.items()
        for task in heldout_tasks(family, count, "evaluation", settings.first_seed)
    ]
    return [*episode_specs(tasks, settings.samples, 1.0), *episode_specs(tasks, 1, 0.0)]


def run_agentic(
    subject: Subject, settings: EvaluateConfig, factory: BoxFactory, progress: Callable[[int], None] | None = None
) -> list[Outcome]:
    """The graded episodes of all families."""
    limits = AgentLimits(settings.max_action_tokens, settings.max_context)
    chat = Chat(subject.tokenizer)
    return evaluate_episodes(
        subject.engine, chat, factory, specs(settings), settings.concurrency, limits, progress
    )  # fmt: skip


def run_humaneval(subject: Subject, settings: EvaluateConfig, factory: BoxFactory) -> tuple[Estimate, list[Attempt]]:
    """Greedy HumanEval."""

    def encode(text: str) -> list[int]:
        return list(subject.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(ids: Sequence[int]) -> str:
        return str(subject.tokenizer.decode(list(ids), skip_special_tokens=True))

    return evaluate_humaneval(
        subject.engine, encode, decode, factory, settings.humaneval_problems, settings.humaneval_tokens,
        settings.max_context,
    )  # fmt: skip


def run_language(subject: Subject, material: language.LanguageSet) -> dict[str, Any]:
    """Bits per byte (sparse, and dense beside it) and retrieval by distance, as the metrics file holds them."""
    bits = language.bits_per_byte(subject.transformer, material)
    found = language.retrieval(subject.transformer, material)
    return {
        "heldout_bits_per_byte": bits["sparse"].to_json(),
        "heldout_bits_per_byte_dense": bits["dense"].to_json(),
        "retrieval": {distance: share.to_json() for distance, share in found.items()},
    }
