"""What would fail in the last stage, or end well with nothing trained, is refused when the parameters are read."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Regex, pre_tokenizers

from tasks.benchmarks.humaneval import problems
from tasks.config import ConfigError, limits, values
from tasks.config.load import resolve
from tasks.config.reading import read_mapping
from tasks.curation import tokenizer
from tasks.environments.registry import families, generate
from tasks.training.data import CorpusWindows
from tasks.training.retrieval import AdjacentRepeats, ScatteredRepeats

RAW = read_mapping(Path("params.yaml").read_text(), "params.yaml")
REFUSED = [
    ("promote.name=a/b", "promote.name"),
    ("promote.name=a:b", "promote.name"),
    ("promote.name=''", "promote.name"),
    ("promote.name=' '", "promote.name"),
    ("promote.name=it's", "promote.name"),
    ("promote.name=a.b", "promote.name"),
    ("promote.name=..", "promote.name"),
    ("promote.name='a\\b'", "promote.name"),
    ("promote.name=" + "a" * 101, "promote.name"),
    ("promote.margin=1.5", "promote.margin"),
    ("seed=100000000000000", "seed"),
    ("seed=4294967296", "seed"),
    ("seed=true", "seed"),
    ("evaluate.first_seed=4294967296", "evaluate.first_seed"),
    ("pretrain.context=1", "pretrain.context"),
    ("pretrain.context=8", "pretrain.context"),
    ("pretrain.copy_context=48", "pretrain.copy_context"),
    ("midtrain.context=30", "midtrain.context"),
    ("midtrain.context=39", "midtrain.context"),
    ("midtrain.agent_context=47", "midtrain.agent_context"),
    ("evaluate.max_context=39", "evaluate.max_context"),
    ("evaluate.humaneval_tokens=1024", "evaluate.humaneval_tokens"),
    ("evaluate.humaneval_tokens=1023", "evaluate.humaneval_tokens"),
    ("evaluate.humaneval_tokens=5000", "evaluate.humaneval_tokens"),
    ("evaluate.humaneval_problems=165", "evaluate.humaneval_problems"),
    ("evaluate.max_action_tokens=1024", "evaluate.max_context"),
    ("reinforce.samples_per_group=1", "reinforce.samples_per_group"),
    ("reinforce.max_context=24", "reinforce.max_context"),
    ("reinforce.max_context=70", "reinforce.max_context"),
    ("reinforce.max_action_tokens=1024", "reinforce.max_context"),
    ("reinforce.lease_seconds=1e-9", "reinforce.lease_seconds"),
    ("reinforce.rollout_workers=100000", "reinforce.rollout_workers"),
    ("reinforce.groups_per_batch=1000000", "reinforce.groups_per_batch"),
    ("reinforce={max_context: 1024, concurrency: 65537}", "reinforce.concurrency"),
    ("pretrain.batch=2000000000", "pretrain.batch"),
    ("pretrain.steps=2147483648", "pretrain.steps"),
    ("midtrain.retrieval_documents=2000000000", "midtrain.retrieval_documents"),
    ("midtrain={dense_steps: 0, agent_steps: 0, indexer_steps: 0, sparse_steps: 0}", "midtrain"),
    ("demonstrate.counts={}", "demonstrate.counts"),
    ("demonstrate.counts={shell: 0, chain: 0, repair: 0}", "demonstrate.counts"),
    ("demonstrate.counts={shell: 10, chain: 10}", "midtrain.families.repair"),
    ("demonstrate={counts: {shell: 9}}", "midtrain.families.chain"),
    ("curate.sources=[]", "curate.sources"),
    ("curate.sources=['']", "curate.sources"),
    ("curate.sources=['a', ' ']", "curate.sources"),
    ("curate.s3_endpoint_url=minio", "curate.s3_endpoint_url"),
    ("curate.minimum_bytes=22000001", "curate.minimum_bytes"),
    ("curate.shard_tokens=1", "curate.shard_tokens"),
    ("curate.workers=5000", "curate.workers"),
    ("curate.max_bytes=9000000000000000000", "curate.max_bytes"),
    ("model.vocab_size=260", "model.vocab_size"),
    ("model.hidden_size=1000000000", "model.hidden_size"),
    ("model={hidden_size: 16000000, intermediate_size: 16000000}", "model"),
    ("model.first_k_dense_replace=5", "model.first_k_dense_replace"),
    ("model.eos_token_id=4", "model.eos_token_id"),
    ("model.num_nextn_predict_layers=300", "model.num_nextn_predict_layers"),
]
FLOATS = ("routed_scaling_factor", "rope_theta", "rms_norm_eps", "initializer_range")
MAY_BE_ZERO = ("mtp_loss_weight", "router_bias_update_rate")


@pytest.mark.parametrize(("override", "key"), REFUSED)
def test_what_cannot_end_well_is_refused_at_once(override: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^The (key|section) '{key}[.'].*\.$"):
        resolve(RAW, [override])


@pytest.mark.parametrize("name", [*FLOATS, *MAY_BE_ZERO])
@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "-1", "-0.5"])
def test_the_networks_constants_are_finite_and_not_negative(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"^The key 'model\.{name}' in params\.yaml is wrong: .*\.$"):
        resolve(RAW, [f"model.{name}={value}"])


def test_some_of_them_may_be_zero() -> None:
    for name in MAY_BE_ZERO:
        resolve(RAW, [f"model.{name}=0.0"]).model_config()
    for name in FLOATS:
        with pytest.raises(ConfigError, match=name):
            resolve(RAW, [f"model.{name}=0.0"])


@pytest.mark.parametrize(
    "overrides",
    [
        ["pretrain.context=9"],
        ["pretrain.context=4", "pretrain.repeat_share=0.0"],
        ["pretrain.copy_context=8", "pretrain.copy_steps=0"],
        ["midtrain.context=40", "midtrain.agent_context=48"],
        ["midtrain.agent_context=8", "midtrain.agent_steps=0"],
        ["reinforce.max_context=71"],
        ["reinforce.max_context=29", "reinforce.families={shell: 1}", "reinforce.evaluation={shell: 4}"],
        ["evaluate.humaneval_tokens=1022"],
        ["demonstrate.counts={shell: 9}", "midtrain.families={}", "reinforce.families={shell: 1}"],
        ["seed=4294967295", "promote.name=Long_haul-2"],
        ["model.first_k_dense_replace=4"],
    ],
)
def test_what_can_end_well_is_not(overrides: list[str]) -> None:
    resolve(RAW, overrides).model_config()


def test_the_least_lengths_are_those_of_the_rows() -> None:
    letters, rng = np.arange(26), np.random.default_rng(0)
    repeats = AdjacentRepeats(letters)
    assert (repeats.shortest, repeats.longest) == (limits.SHORTEST_STRING, limits.LONGEST_STRING)
    assert all(repeats.row(rng, limits.LONGEST_STRING + 1).weights.any() for _ in range(200))
    assert not any(repeats.row(rng, limits.SHORTEST_STRING).weights.any() for _ in range(200))
    scattered = ScatteredRepeats(CorpusWindows(np.arange(1000, dtype=np.uint16)), letters)
    assert scattered.retrieval_row(rng, limits.SHORTEST_RETRIEVAL).distances.any()
    assert not scattered.retrieval_row(rng, limits.SHORTEST_RETRIEVAL - 1).distances.any()


def test_the_least_prompts_are_those_of_the_families() -> None:
    """No vocabulary joins what the tokenizer's pattern keeps apart, and two control tokens stand around it."""
    words = pre_tokenizers.Split(Regex(tokenizer.PIECES), behavior="isolated")
    for family in families():
        lengths = [len(words.pre_tokenize_str(generate(family, seed, "train").instruction)) for seed in range(300)]
        assert values.SHORTEST_PROMPT[family] <= min(lengths) + 2 <= values.SHORTEST_PROMPT[family] + 3


def test_the_numbers_are_those_of_the_code() -> None:
    assert values.SMALLEST_VOCABULARY == tokenizer.SMALLEST_VOCABULARY
    assert len(problems()) == values.HUMANEVAL
