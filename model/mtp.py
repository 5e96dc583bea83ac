"""Multi-token prediction (DeepSeek-V3, arXiv 2412.19437, section 2.2; shared between steps as in GLM-5)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.attention import AttentionContext
from model.config import ModelConfig
from model.decoder import DecoderLayer, LayerOutput
from model.layers import Linear, RMSNorm


class SharedHead(nn.Module):
    """The norm in front of the output head that the trunk and the MTP layer share."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class MultiTokenPredictor(DecoderLayer):
    """One more decoder layer: from the state at token t and the embedding of token t+1 it predicts token t+2."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, config.mlp_layer_types[-1], "full")
        self.enorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.hnorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.eh_proj = Linear(2 * config.hidden_size, config.hidden_size)
        self.shared_head = SharedHead(config)

    def predict(self, hidden: Tensor, next_embedding: Tensor, context: AttentionContext) -> LayerOutput:
        """hidden and next_embedding [B, T, hidden] -> the state whose logits are those of token t+2."""
        joined = torch.cat([self.enorm(next_embedding), self.hnorm(hidden)], dim=-1)
        residual = self.eh_proj(joined).to(hidden.dtype)  # sums are not rounded, whatever autocast does to products
        out: LayerOutput = self(residual, context, None)
        return out._replace(hidden=self.shared_head.norm(out.hidden))
