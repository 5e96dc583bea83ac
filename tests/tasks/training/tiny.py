"""A tiny network and sources for the tests of this folder."""

from __future__ import annotations

import numpy as np

from model import ModelConfig, Transformer
from tasks.training.data import CorpusWindows
from tasks.training.schedule import Phase
from tasks.training.settings import OptimizerSettings

CONFIG = ModelConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    moe_intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    q_lora_rank=16,
    kv_lora_rank=16,
    qk_nope_head_dim=8,
    qk_rope_head_dim=8,
    v_head_dim=8,
    n_routed_experts=4,
    index_n_heads=2,
    index_head_dim=16,
    index_topk=8,
    indexer_loss_rows=8,
)


def transformer(seed: int = 0) -> Transformer:
    """The same weights for the same seed."""
    network = Transformer(CONFIG)
    network.init_weights(seed)
    return network


def corpus(documents: bool = True) -> CorpusWindows:
    """Counting sequences with noise; documents of 50 tokens, or one endless document."""
    rng = np.random.default_rng(0)
    tokens = (np.arange(4000) // 2 + rng.integers(0, 3, 4000)) % 60 + 2
    if documents:
        tokens[49::50] = 0
    return CorpusWindows(tokens.astype(np.uint16))


def phases(steps: int = 6) -> list[Phase]:
    """All three modes of DSA, so that a resume crosses a change of optimizer."""
    mixture = {"corpus": 1.0}
    muon, short = OptimizerSettings(), OptimizerSettings(muon_lr=0.05, momentum=0.8)
    return [
        Phase("dense", "dense", steps, 2, 32, mixture, muon),
        Phase("indexer", "warmup", steps, 2, 32, mixture, short, train="indexer"),
        Phase("sparse", "sparse", steps, 2, 32, mixture, muon, decay=0.5),
    ]
