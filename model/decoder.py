"""The stack of decoder layers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.attention import Attention, AttentionContext
from model.config import ModelConfig
from model.indexer import Selection
from model.layers import MLP, RMSNorm
from model.moe import MoE


class LayerOutput(NamedTuple):
    """hidden [B, T, hidden]; the indexer's loss and the experts' load [E] where the layer has them."""

    hidden: Tensor
    selection: Selection | None
    indexer_loss: Tensor | None
    expert_load: Tensor | None


class DecoderLayer(nn.Module):
    """Pre-norm attention and feed-forward, each added to the residual stream."""

    def __init__(self, config: ModelConfig, mlp_type: str, indexer_type: str) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, indexer_type)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MoE(config) if mlp_type == "sparse" else MLP(config.hidden_size, config.intermediate_size)

    def forward(self, x: Tensor, context: AttentionContext, shared: Selection | None) -> LayerOutput:
        """x [B, T, hidden]; `shared` is what the preceding layer selected."""
        attended, selection, loss = self.self_attn(self.input_layernorm(x), context, shared)
        x = x + attended
        normed = self.post_attention_layernorm(x)
        if isinstance(self.mlp, MoE):
            out, load = self.mlp(normed)
            return LayerOutput(x + out, selection, loss, load)
        return LayerOutput(x + self.mlp(normed), selection, loss, None)


class StackOutput(NamedTuple):
    """hidden [B, T, hidden] after the final norm; one indexer loss a layer that learns; one load [E] a MoE layer."""

    hidden: Tensor
    indexer_losses: list[Tensor]
    expert_loads: list[Tensor]


class Decoder(nn.Module):
    """Embedding, layers and final norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        kinds = zip(config.mlp_layer_types, config.indexer_types, strict=True)
        self.layers = nn.ModuleList(DecoderLayer(config, mlp, indexer) for mlp, indexer in kinds)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, token_ids: Tensor, context: AttentionContext) -> StackOutput:
        """token_ids [B, T]."""
        x, selection = self.embed_tokens(token_ids), None
        losses: list[Tensor] = []
        loads: list[Tensor] = []
        for layer in self.layers:
            x, selection, loss, load = self._run(layer, x, context, selection)
            losses += [] if loss is None else [loss]
            loads += [] if load is None else [load]
        return StackOutput(self.norm(x), losses, loads)

    def _run(self, layer: nn.Module, x: Tensor, context: AttentionContext, shared: Selection | None) -> LayerOutput:
        """One layer. With activation checkpointing (Chen et al., arXiv 1604.06174) backward runs it once more."""
        if self.config.activation_checkpointing and torch.is_grad_enabled():
            out: LayerOutput = checkpoint(layer, x, context, shared, use_reentrant=False)
        else:
            out = layer(x, context, shared)
        return out
