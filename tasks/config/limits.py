"""What no single key shows: values that contradict each other, and networks that cannot be.

Every check yields one full sentence; the first is what the person reads. Without these a run would fail in its last
stage, or end well with nothing trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tasks.config.values import FAMILIES, SHORTEST_PROMPT, SMALLEST_VOCABULARY

if TYPE_CHECKING:
    from tasks.config.sections import Config

# Tests hold these equal to what tasks.training does, which loads too much to be asked here.
SHORTEST_STRING, LONGEST_STRING = 8, 48  # tokens of a random string that tasks.training.retrieval repeats at once
SHORTEST_RETRIEVAL = 40  # tokens of a row with two places for one string
LARGEST = 1 << 24  # of the sizes of a network
MOST_PARAMETERS = 10**14
MOST_TOKENS = 1 << 30  # that a step, an engine's cache or a held-out set holds at once
MOST_EPISODES = 1 << 20  # of a batch
FLOATS = {  # of the network: the least value, and whether it may be that itself
    "routed_scaling_factor": (0.0, False),
    "rope_theta": (1.0, False),
    "rms_norm_eps": (0.0, False),
    "initializer_range": (0.0, False),
    "mtp_loss_weight": (0.0, True),
    "router_bias_update_rate": (0.0, True),
}


def contradictions(config: Config) -> Iterator[str]:
    """What is wrong with the parameters taken together, a sentence each."""
    yield from _of_model(config.model)
    yield from _of_training(config)
    yield from _of_positions(config)
    yield from _of_amounts(config)
    yield from _of_families(config)
    yield from _of_episodes(config)
    yield from _of_curation(config)


def _wrong(key: str, why: str) -> str:
    return f"The key {key!r} in params.yaml is wrong: {why}."


def _of_model(model: Mapping[str, Any]) -> Iterator[str]:
    """The network's numbers; that they are there and of the right type is for ModelConfig to say."""
    for name, value in model.items():
        key = f"model.{name}"
        if isinstance(value, float) and not math.isfinite(value):
            yield _wrong(key, f"it must be a finite number, not {value}")
        if isinstance(value, int | float) and name in FLOATS:
            least, inclusive = FLOATS[name]
            if value < least or (value == least and not inclusive):
                yield _wrong(key, f"it must be {'at least' if inclusive else 'more than'} {least:g}, not {value}")
        elif isinstance(value, int) and not isinstance(value, bool) and value > LARGEST:
            yield _wrong(key, f"it must be at most {LARGEST}, not {value}")
    size = {name: value for name, value in model.items() if isinstance(value, int)}
    yield from _of_sizes(size)


def _of_sizes(size: Mapping[str, int]) -> Iterator[str]:
    vocabulary, layers = size.get("vocab_size", SMALLEST_VOCABULARY), size.get("num_hidden_layers", 1)
    if vocabulary < SMALLEST_VOCABULARY:
        yield _wrong(
            "model.vocab_size",
            f"256 bytes and {SMALLEST_VOCABULARY - 256} special tokens need {SMALLEST_VOCABULARY}, not {vocabulary}",
        )
    if size.get("first_k_dense_replace", 0) > layers:
        yield _wrong(
            "model.first_k_dense_replace",
            f"it must be at most model.num_hidden_layers, {layers}, not {size['first_k_dense_replace']}",
        )
    if size.get("eos_token_id", 0):
        yield _wrong("model.eos_token_id", f"the recipe's tokenizer ends texts with 0, not {size['eos_token_id']}")
    if (parameters := _parameters(size)) > MOST_PARAMETERS:
        yield f"The section 'model' of params.yaml is wrong: the network would have {parameters:.1e} parameters."


def _parameters(size: Mapping[str, int]) -> int:
    """About how many parameters the feed-forward parts, the embedding and the head have."""
    hidden, layers = size.get("hidden_size", 0), size.get("num_hidden_layers", 0)
    experts = size.get("n_routed_experts", 0) * size.get("moe_intermediate_size", 0)
    return hidden * (2 * size.get("vocab_size", 0) + 3 * layers * (experts + size.get("intermediate_size", 0)))


def _of_positions(config: Config) -> Iterator[str]:
    """How many tokens the network sees at once, against its positions."""
    limit = config.model.get("max_position_embeddings")
    lengths = {
        "pretrain.context": config.pretrain.context,
        "pretrain.copy_context": config.pretrain.copy_context,
        "midtrain.context": config.midtrain.context,
        "midtrain.agent_context": config.midtrain.agent_context,
        "reinforce.max_context": config.reinforce.max_context,
        "evaluate.max_context": config.evaluate.max_context,
    }
    for key, length in lengths.items():
        if isinstance(limit, int) and length > limit:
            yield f"The key {key!r} in params.yaml is {length}, more than model.max_position_embeddings, {limit}."
    ahead = config.model.get("num_nextn_predict_layers", 0)
    if isinstance(ahead, int) and ahead + 2 > min(config.pretrain.context, config.midtrain.agent_context):
        yield _wrong("model.num_nextn_predict_layers", f"no row of training has {ahead} tokens after its first two")


def _of_amounts(config: Config) -> Iterator[str]:
    """Products that no machine holds, though each factor may be right elsewhere."""
    pretrain, midtrain, reinforce, evaluate = config.pretrain, config.midtrain, config.reinforce, config.evaluate
    for key, number, length in (
        ("pretrain.batch", pretrain.batch, pretrain.context),
        ("pretrain.copy_batch", pretrain.copy_batch, pretrain.copy_context),
        ("midtrain.batch", midtrain.batch, midtrain.context),
        ("midtrain.agent_batch", midtrain.agent_batch, midtrain.agent_context),
        ("midtrain.retrieval_documents", midtrain.retrieval_documents, midtrain.context),
        ("reinforce.concurrency", reinforce.concurrency, reinforce.max_context),
        ("evaluate.concurrency", evaluate.concurrency, evaluate.max_context),
        ("evaluate.retrieval_documents", evaluate.retrieval_documents, evaluate.max_context),
    ):
        if number * length > MOST_TOKENS:
            yield _wrong(key, f"{number} times {length} tokens are more than a machine holds at once")
    if reinforce.groups_per_batch * reinforce.samples_per_group > MOST_EPISODES:
        yield _wrong(
            "reinforce.groups_per_batch",
            f"{reinforce.groups_per_batch} times {reinforce.samples_per_group} episodes are too many for a batch",
        )


def _of_training(config: Config) -> Iterator[str]:
    """Rows too short for what is to be learned from them, and a stage without a step."""
    pretrain, midtrain = config.pretrain, config.midtrain
    least = SHORTEST_STRING + 1 if pretrain.repeat_share else 2
    if pretrain.context < least:
        yield _wrong("pretrain.context", f"a row must have at least {least} tokens to teach, not {pretrain.context}")
    if pretrain.copy_steps and pretrain.copy_context <= LONGEST_STRING:
        yield _wrong(
            "pretrain.copy_context",
            f"a string and its copy need more than {LONGEST_STRING} tokens, not {pretrain.copy_context}",
        )
    for key, length in (("midtrain.context", midtrain.context), ("evaluate.max_context", config.evaluate.max_context)):
        if length < SHORTEST_RETRIEVAL:
            yield _wrong(key, f"retrieval is measured on rows of at least {SHORTEST_RETRIEVAL} tokens, not {length}")
    if not midtrain.dense_steps + midtrain.agent_steps + midtrain.indexer_steps + midtrain.sparse_steps:
        yield (
            "The section 'midtrain' of params.yaml is wrong: dense_steps, agent_steps, indexer_steps and sparse_steps "
            "are all 0, so nothing would be trained."
        )


def _of_families(config: Config) -> Iterator[str]:
    """Families that one section uses and another leaves without a demonstration."""
    counts = config.demonstrate.counts
    if not sum(counts.values()):
        yield _wrong("demonstrate.counts", "its values must sum to more than 0")
    for section, shares in (("midtrain", config.midtrain.families), ("reinforce", config.reinforce.families)):
        for family in FAMILIES:
            if shares.get(family, 0) > 0 and not counts.get(family, 0):
                yield _wrong(
                    f"{section}.families.{family}",
                    f"it is {shares[family]}, but demonstrate.counts has no {family} to learn from",
                )
    if config.midtrain.agent_steps:
        yield from _of_rows(config)


def _of_rows(config: Config) -> Iterator[str]:
    shares = config.midtrain.families or config.demonstrate.counts
    for family, share in shares.items():
        if share > 0 and config.midtrain.agent_context <= SHORTEST_PROMPT[family]:
            yield _wrong(
                "midtrain.agent_context",
                f"a command of the family {family!r} comes after {SHORTEST_PROMPT[family]} tokens and more, so "
                f"{config.midtrain.agent_context} hold none",
            )


def _of_episodes(config: Config) -> Iterator[str]:
    """Episodes that would end before the model wrote anything."""
    reinforce, evaluate = config.reinforce, config.evaluate
    played = {"reinforce": {**reinforce.families, **_positive(reinforce.evaluation)}, "evaluate": evaluate.tasks}
    for section, settings in (("reinforce", reinforce), ("evaluate", evaluate)):
        room = settings.max_context - settings.max_action_tokens
        for family, share in played[section].items():
            if share > 0 and room < SHORTEST_PROMPT[family]:
                yield _wrong(
                    f"{section}.max_context",
                    f"beside {section}.max_action_tokens, {settings.max_action_tokens}, a task of the family "
                    f"{family!r} needs at least {SHORTEST_PROMPT[family]} tokens, so no episode fits into "
                    f"{settings.max_context}",
                )
    if evaluate.humaneval_tokens + 1 >= evaluate.max_context:
        yield _wrong(
            "evaluate.humaneval_tokens",
            f"it must leave room for a problem in evaluate.max_context, {evaluate.max_context}, "
            f"so it cannot be {evaluate.humaneval_tokens}",
        )


def _positive(counts: Mapping[str, int]) -> dict[str, int]:
    return {family: count for family, count in counts.items() if count > 0}


def _of_curation(config: Config) -> Iterator[str]:
    curate = config.curate
    if curate.minimum_bytes > curate.max_bytes:
        yield _wrong(
            "curate.minimum_bytes",
            f"the gate would refuse every batch, since curate.max_bytes reads {curate.max_bytes} bytes at most and "
            f"{curate.minimum_bytes} are asked for",
        )
