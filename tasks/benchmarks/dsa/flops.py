"""Floating-point operations of one training step, counted by formula: a multiplication and an addition are two.

A matrix product with gradients costs three times its forward pass (Kaplan et al., arXiv 2001.08361, section 2.1), one
without costs it once. Norms, softmax, routing, the optimizer and the top-k selection itself are not counted.
"""

from __future__ import annotations

from model import ModelConfig
from tasks.training.data import Mode

TRAINED = 3  # forward, gradient of the input, gradient of the weight


def step_flops(config: ModelConfig, rows: int, length: int, mode: Mode) -> float:
    """Of a step on `rows` rows, each one document of `length` tokens."""
    backbone = 1 if mode == "warmup" else TRAINED
    flops = backbone * (2 * length * active_parameters(config) + config.num_hidden_layers * core(config, length, mode))
    if mode == "sparse":
        flops += config.num_hidden_layers * selection(config, length)
    if mode != "dense":
        flops += config.num_hidden_layers * teaching(config, length)
    return float(rows * flops)


def active_parameters(config: ModelConfig) -> int:
    """Weights of the matrices that a token passes, indexer and MTP layer left out; the head counts."""
    c = config
    attention = (
        c.hidden_size * (c.q_lora_rank + c.kv_lora_rank + c.qk_rope_head_dim)
        + c.num_attention_heads * c.q_lora_rank * c.qk_head_dim
        + c.num_attention_heads * c.kv_lora_rank * (c.qk_nope_head_dim + c.v_head_dim)
        + c.num_attention_heads * c.v_head_dim * c.hidden_size
    )
    experts = c.num_experts_per_tok + c.n_shared_experts
    moe = 3 * c.hidden_size * c.moe_intermediate_size * experts + c.hidden_size * c.n_routed_experts
    dense = 3 * c.hidden_size * c.intermediate_size
    feed_forward = sum(moe if kind == "sparse" else dense for kind in c.mlp_layer_types)
    return c.num_hidden_layers * attention + feed_forward + c.vocab_size * c.hidden_size


def pairs(length: int, keys: int) -> int:
    """Query-key pairs of a causal row in which no query sees more than `keys` keys."""
    full = min(length, keys)
    return full * (full + 1) // 2 + (length - full) * full


def core(config: ModelConfig, length: int, mode: Mode) -> int:
    """Forward pass of one layer's attention over keys and values: 2 * pairs * heads * (Dqk + Dv)."""
    keys = config.index_topk if mode == "sparse" else length
    return 2 * pairs(length, keys) * config.num_attention_heads * (config.qk_head_dim + config.v_head_dim)


def selection(config: ModelConfig, length: int) -> int:
    """Index queries, keys, head weights and the scores of all pairs of one layer, without gradients."""
    scores = 2 * pairs(length, length) * config.index_n_heads * config.index_head_dim
    return length * (_query_flops(config) + _key_flops(config)) + scores


def teaching(config: ModelConfig, length: int) -> int:
    """One layer's teacher and student over the rows that teach, all keys each.

    The student's scores are computed for the loss, and once more with the gradients of queries and keys.
    """
    rows = min(config.indexer_loss_rows or length, length)
    teacher = 2 * rows * length * config.num_attention_heads * config.qk_head_dim
    scores = 2 * rows * length * config.index_n_heads * config.index_head_dim
    projections = TRAINED * (rows * _query_flops(config) + length * _key_flops(config))
    return teacher + (1 + TRAINED) * scores + projections


def _query_flops(config: ModelConfig) -> int:
    """Of one token's index queries and head weights."""
    return 2 * config.index_n_heads * (config.q_lora_rank * config.index_head_dim + config.hidden_size)


def _key_flops(config: ModelConfig) -> int:
    """Of one token's index key."""
    return 2 * config.hidden_size * config.index_head_dim
