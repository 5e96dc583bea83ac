"""The lightning indexer of DeepSeek Sparse Attention and what it learns from (DeepSeek-V3.2, section 2.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kernels.lightning_indexer import index_scores
from kernels.rope import apply_rope
from model.config import ModelConfig


class Indexer(nn.Module):
    """Scores every earlier token for every query. Its inputs are detached: nothing here reaches the backbone."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = config.index_n_heads, config.index_head_dim
        self.rope_dim = config.qk_rope_head_dim
        self.wq_b = nn.Linear(config.q_lora_rank, self.heads * self.head_dim, bias=False)
        self.wk = nn.Linear(config.hidden_size, self.head_dim, bias=False)
        self.k_norm = nn.LayerNorm(self.head_dim, eps=1e-6)
        self.weights_proj = nn.Linear(config.hidden_size, self.heads, bias=False)

    def keys(self, hidden: Tensor, rope: Tensor) -> Tensor:
        """Index keys [B, S, D] of hidden [B, S, hidden_size]; rope [B, S, rope_dim/2]."""
        return self._rotate(self.k_norm(self.wk(hidden.detach())), rope)

    def queries(self, q_latent: Tensor, rope: Tensor) -> Tensor:
        """Index queries [B, T, H, D] of the normalised query latent [B, T, q_lora_rank]."""
        query = self.wq_b(q_latent.detach()).unflatten(-1, (self.heads, self.head_dim))
        return self._rotate(query, rope.unsqueeze(-2))

    def head_weights(self, hidden: Tensor) -> Tensor:
        """The weight of each index head, [B, T, H], with its factor H^-1/2."""
        weights: Tensor = self.weights_proj(hidden.detach())
        return weights.float() * self.heads**-0.5

    def forward(self, query_hidden: Tensor, q_latent: Tensor, query_rope: Tensor, keys: Tensor) -> Tensor:
        """Unmasked index scores [B, T, S] in fp32."""
        return index_scores(self.queries(q_latent, query_rope), keys, self.head_weights(query_hidden))

    def _rotate(self, x: Tensor, rope: Tensor) -> Tensor:
        turned, rest = x.split([self.rope_dim, self.head_dim - self.rope_dim], dim=-1)
        return torch.cat([apply_rope(turned, rope), rest], dim=-1)


@dataclass(frozen=True)
class Selection:
    """What a layer with an indexer hands to the layers that share it.

    `keys` [B, T, k] int32 lists the keys each query attends to, padded with -1 (None: all it may see). `rows` [R] are
    the query rows that teach the indexer and `scores` [B, R, S] their differentiable index scores; None where nothing
    is learned.
    """

    keys: Tensor | None
    rows: Tensor | None = None
    scores: Tensor | None = None


def indexer_loss(scores: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean over query rows of KL(teacher || softmax(scores over the mask)), a scalar.

    scores and teacher [B, R, S], mask [B, R, S] bool; the teacher is zero outside the mask.
    """
    log_student = scores.masked_fill(~mask, -torch.inf).log_softmax(-1).masked_fill(~mask, 0.0)
    divergence = torch.xlogy(teacher, teacher) - teacher * log_student
    return divergence.sum(-1).mean()


def teaching_rows(length: int, limit: int, device: torch.device) -> Tensor:
    """The query rows the indexer learns from: all, or `limit` evenly spaced ones with a random first row."""
    if limit == 0 or limit >= length:
        return torch.arange(length, device=device)
    offset = torch.rand(1, device=device)
    return ((torch.arange(limit, device=device) + offset) * (length / limit)).long().clamp_(max=length - 1)
