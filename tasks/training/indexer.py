"""How much of each layer's attention the keys hold that its indexer selects (to be judged by the worst layer)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.sparse_attention import attention_distribution
from kernels.topk import topk_mask
from model import Transformer
from model.attention import Attention
from tasks.training.data import Row, stack


@torch.no_grad()
def captured_mass(transformer: Transformer, rows: Sequence[Row]) -> list[float]:
    """For each trunk layer with an indexer: mean attention mass on the top-k, over queries with more than k keys.

    The layer's input is that of the sparse model; the attention compared with is dense over it. A random choice
    would hold about k / t of the mass at position t. Returns 1.0 where no query has more than k keys.
    """
    masses: list[float] = []

    def measure(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(module, Attention)
        masses.append(_layer_mass(module, inputs[0], inputs[1]))

    layers = [layer.self_attn for layer in transformer.model.layers if layer.self_attn.indexer is not None]
    hooks = [attention.register_forward_pre_hook(measure) for attention in layers]
    try:
        batch = stack(list(rows)).to(next(transformer.parameters()).device)
        transformer.log_probs(batch.token_ids, batch.document_ids, "sparse")
    finally:
        for hook in hooks:
            hook.remove()
    return masses


def _layer_mass(attention: Attention, x: Tensor, context: Any) -> float:
    """x [B, T, hidden] is the layer's normed input."""
    indexer = attention.indexer
    visible = context.packing.visible(torch.arange(x.shape[1], device=x.device))
    assert indexer is not None
    many = visible.sum(-1) > attention.config.index_topk  # [B, T]
    if not bool(many.any()):
        return 1.0
    latent = attention.q_a_layernorm(attention.q_a_proj(x))
    scores = indexer(x, latent, context.rope, indexer.keys(x, context.rope)).masked_fill(~visible, -torch.inf)
    chosen = topk_mask(scores, attention.config.index_topk)
    query, (key, _) = attention._queries(latent, context.rope), attention._keys_values(x, context.rope)
    weights = attention_distribution(query, key, visible, attention.scale)
    return float((weights * chosen).sum(-1)[many].mean())
