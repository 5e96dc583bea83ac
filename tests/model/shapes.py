"""A network small enough for tests, with every part of the architecture."""

import torch

from model import ModelConfig, Transformer


def small_config(**changes: object) -> ModelConfig:
    values: dict[str, object] = {
        "vocab_size": 61,
        "hidden_size": 32,
        "intermediate_size": 48,
        "moe_intermediate_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "q_lora_rank": 24,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4,
        "v_head_dim": 8,
        "n_routed_experts": 4,
        "index_n_heads": 3,
        "index_head_dim": 8,
        "index_topk": 6,
        "max_position_embeddings": 128,
    }
    return ModelConfig(**(values | changes))  # type: ignore[arg-type]


def small_transformer(seed: int = 0, **changes: object) -> Transformer:
    transformer = Transformer(small_config(**changes))
    transformer.init_weights(seed)
    return transformer


def tokens(batch: int, length: int, seed: int = 0, vocabulary: int = 61) -> torch.Tensor:
    return torch.randint(0, vocabulary, (batch, length), generator=torch.Generator().manual_seed(seed))
