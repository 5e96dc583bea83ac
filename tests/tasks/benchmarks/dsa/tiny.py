"""A network of two layers and rows of letters for the tests of this folder."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from model import ModelConfig, Transformer
from model.attention import Attention, AttentionContext
from tests.tasks.training import tiny

CONFIG: ModelConfig = replace(tiny.CONFIG, num_nextn_predict_layers=0)


def transformer(**changes: int) -> Transformer:
    """Weights of seed 0, the indexers' wide apart so that few scores tie."""
    network = Transformer(replace(CONFIG, **changes))
    network.init_weights(0)
    return network


def context(ids: Tensor, network: Transformer, documents: Tensor | None = None) -> AttentionContext:
    """What the layers of a sparse forward pass share."""
    return network._context(ids, documents, "sparse", teach=False)


@torch.no_grad()
def selected(network: Transformer, length: int = 40, documents: Tensor | None = None) -> Tensor:
    """The keys that the first layer lists for random hidden states, [2, length, k]."""
    ids = torch.zeros(2, length, dtype=torch.int64)
    hidden = torch.randn(2, length, network.config.hidden_size, generator=torch.Generator().manual_seed(1))
    attention: Attention = network.model.layers[0].self_attn  # type: ignore[assignment]
    latent = attention.q_a_layernorm(attention.q_a_proj(hidden))
    found = attention._top_keys(hidden, latent, context(ids, network, documents))
    assert found is not None
    return found
