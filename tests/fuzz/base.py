"""Valid inputs, made once a process, which the targets then spoil."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

from model import ModelConfig, Transformer
from tasks.curation import tokenizer as curation
from tasks.curation.shards import FORMAT, write_shards
from tasks.environments.registry import families, generate
from tasks.environments.task import Task

WORDS = "the quick brown fox jumps over the lazy dog and runs to the river bank before noon while ls -la prints a.txt"
CONFIG = ModelConfig(
    vocab_size=300, hidden_size=16, intermediate_size=16, moe_intermediate_size=16, num_hidden_layers=2,
    num_attention_heads=2, q_lora_rank=8, kv_lora_rank=8, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8,
    n_routed_experts=2, num_experts_per_tok=1, index_n_heads=2, index_head_dim=8, index_topk=4, indexer_loss_rows=4,
    max_position_embeddings=64,
)  # fmt: skip
DEMONSTRATIONS: list[dict[str, Any]] = [
    {
        "task_id": f"{family}-train-{number}", "family": family, "seed": number, "split": "train",
        "instruction": f"Copy a{number}.txt to b.txt.", "success": True,
        "turns": [{"command": f"cp a{number}.txt b.txt", "output": "done\n", "exit_code": number % 2}],
    }
    for family in ("shell", "chain") for number in range(3)
]  # fmt: skip
ESTIMATE = {"value": 0.5, "ci95": [0.25, 0.75], "n": 8}


@functools.cache
def tokenizer_json() -> str:
    """A tokenizer.json of the kind that curation writes."""
    return str(curation.train([WORDS] * 50, CONFIG.vocab_size).to_str())


@functools.cache
def checkpoint() -> dict[str, bytes]:
    """The files of a tiny checkpoint, by name."""
    network = Transformer(CONFIG)
    network.init_weights(0)
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(Path(folder) / "c", {"tokenizer.json": tokenizer_json().encode()})
        return {path.name: path.read_bytes() for path in (Path(folder) / "c").iterdir()}


@functools.cache
def corpus() -> dict[str, bytes]:
    """The files of a corpus of two splits, one of two shards."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        splits = {
            split: {"documents": 3, "bytes": 90, "shards": write_shards(folder, split, documents, 300, 20)}
            for split, documents in {"train": [range(5, 25), range(30, 50)], "heldout": [range(7, 19)]}.items()
        }
        manifest = {"format": FORMAT, "vocab_size": 300, "splits": splits}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return {path.name: path.read_bytes() for path in folder.iterdir()}


@functools.cache
def tasks() -> tuple[Task, ...]:
    """One task of each family."""
    return tuple(generate(family, 3, "train") for family in families())


def scores(*keys: str) -> dict[str, Any]:
    """An estimate for each key."""
    return {key: dict(ESTIMATE) for key in keys}


def evaluation() -> dict[str, Any]:
    """metrics/evaluate.json."""
    of_family = {
        **scores("pass_at_1", "pass_at_4", "greedy", "recovery_rate", "mean_turns", "gain", "greedy_gain"),
        "baseline": scores("pass_at_1", "pass_at_4", "greedy", "recovery_rate"), "by_horizon": scores("1", "2"),
    }  # fmt: skip
    return {
        "shell": of_family, "repair": json.loads(json.dumps(of_family)), "mean": scores("gain", "greedy_gain"),
        "humaneval": {"n": 8, **scores("pass_at_1")}, "retrieval": scores("all"), **scores("heldout_bits_per_byte"),
        "baseline": {"retrieval": scores("all"), **scores("heldout_bits_per_byte")}, "model_sha256": "0" * 64,
        "baseline_sha256": "1" * 64, "seconds": 12.5, "isolation": "bubblewrap",
    }  # fmt: skip


def metrics() -> dict[str, dict[str, Any]]:
    """The metrics files of every stage, by name."""
    counts = {"documents": 10, "bytes": 1000}
    before = scores("heldout_bits_per_byte", "retrieval_accuracy") | {"heldout_demonstration_loss": scores("shell")}
    return {
        "demonstrate": {"seconds": 1.0, "shell": {"demonstrations": 4, "success": 0.5}},
        "curate": {"seconds": 2.0, "read": counts, "kept": counts, "tokens": 100},
        "pretrain": {"seconds": 3.0, **scores("heldout_bits_per_byte", "unigram_bits_per_byte"), "curve": [[0, 5.0]]},
        "midtrain": {**before, "before": before, "seconds": 4.0, "retrieval_chance": 0.04},
        "reinforce": {"seconds": 5.0, "shell": scores("pass_at_1_before", "pass_at_1_after"), "trajectories": 8},
        "evaluate": evaluation(),
        "promote": {
            "seconds": 6.0, "passed": True, "lower": 0.1, "difference": 0.2, "opponent": "x", "tasks": 8,
            "champion": "1", "version": "longhaul/1", "statement": "s", "margin": 0.0, "confidence": 0.95,
        },
    }  # fmt: skip
