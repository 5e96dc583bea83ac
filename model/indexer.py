"""The lightning indexer of DeepSeek Sparse Attention and what it learns from (DeepSeek-V3.2, section 2.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kernels.lightning_indexer import index_scores, index_scores_gradients
from kernels.precision import exact
from kernels.rope import apply_rope
from model.config import ModelConfig

TEACHING_BLOCK = 128  # query rows that are taught at once: bounds the memory of the loss
Target = Callable[[slice], tuple[Tensor, Tensor]]


class IndexInputs(NamedTuple):
    """What scores are made of: query [B, R, H, D], key [B, S, D] and head weights [B, R, H]."""

    query: Tensor
    key: Tensor
    weights: Tensor


class Indexer(nn.Module):
    """Scores every earlier token for every query. Its inputs are detached: nothing here reaches the backbone.

    All of it is exact under autocast: a rounded score selects other keys.
    """

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
        with exact(hidden):
            return self._rotate(self.k_norm(self.wk(self._input(hidden))), rope)

    def queries(self, q_latent: Tensor, rope: Tensor) -> Tensor:
        """Index queries [B, T, H, D] of the normalised query latent [B, T, q_lora_rank]."""
        with exact(q_latent):
            query = self.wq_b(self._input(q_latent)).unflatten(-1, (self.heads, self.head_dim))
            return self._rotate(query, rope.unsqueeze(-2))

    def head_weights(self, hidden: Tensor) -> Tensor:
        """The weight of each index head, [B, T, H], with its factor H^-1/2."""
        with exact(hidden):
            weights: Tensor = self.weights_proj(self._input(hidden))
        return weights.float() * self.heads**-0.5

    def inputs(self, query_hidden: Tensor, q_latent: Tensor, query_rope: Tensor, keys: Tensor) -> IndexInputs:
        """What the scores of these queries are made of."""
        return IndexInputs(self.queries(q_latent, query_rope), keys, self.head_weights(query_hidden))

    def forward(self, query_hidden: Tensor, q_latent: Tensor, query_rope: Tensor, keys: Tensor) -> Tensor:
        """Unmasked index scores [B, T, S] in fp32."""
        return index_scores(*self.inputs(query_hidden, q_latent, query_rope, keys))

    def _input(self, x: Tensor) -> Tensor:
        return x.detach().to(self.wk.weight.dtype)

    def _rotate(self, x: Tensor, rope: Tensor) -> Tensor:
        turned, rest = x.split([self.rope_dim, self.head_dim - self.rope_dim], dim=-1)
        return torch.cat([apply_rope(turned, rope), rest], dim=-1)


@dataclass(frozen=True)
class Selection:
    """What a layer with an indexer hands to the layers that share it.

    `keys` [B, T, k] int32 lists the keys each query attends to, padded with -1 (None: all it may see). `rows` [R] are
    the query rows that teach the indexer and `inputs` what their index scores are made of; None where nothing is
    learned.
    """

    keys: Tensor | None
    rows: Tensor | None = None
    inputs: IndexInputs | None = None


def indexer_loss(inputs: IndexInputs, target: Target) -> Tensor:
    """Mean over batch and query rows of KL(teacher || softmax(index scores over the mask)), a scalar.

    `target` gives the teacher and the mask, both [B, r, S], of a range of rows; the teacher is zero outside the mask.
    Gradients are made with the loss, block by block: nothing of size [B, R, S] is kept.
    """
    return _IndexerLoss.apply(*inputs, target)  # type: ignore[no-untyped-call,no-any-return]


class _IndexerLoss(torch.autograd.Function):
    """Differentiable in the three index inputs, not in the teacher."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, weights: Tensor, target: Target) -> Tensor:
        """Keeps the gradients for a loss that counts once."""
        rows, total = query.shape[1], query.new_zeros((), dtype=torch.float32)
        learns = any(ctx.needs_input_grad[:3])
        gradients = [torch.zeros_like(x) for x in (query, key, weights)] if learns else []
        for start in range(0, rows, TEACHING_BLOCK):
            block = slice(start, min(start + TEACHING_BLOCK, rows))
            inputs = query[:, block], key, weights[:, block]
            loss, slope = _divergence(index_scores(*inputs), *target(block))
            total += loss
            if learns:
                for_query, for_key, for_weights = index_scores_gradients(*inputs, slope)
                gradients[0][:, block], gradients[2][:, block] = for_query, for_weights
                gradients[1] += for_key
        count = query.shape[0] * rows
        ctx.save_for_backward(*(gradient.div_(count) for gradient in gradients))
        return total / count

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        """The kept gradients, scaled."""
        return *(gradient * grads[0].to(gradient.dtype) for gradient in ctx.saved_tensors), None


def _divergence(scores: Tensor, teacher: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The summed divergence and its gradient with respect to the scores [B, r, S]."""
    log_student = scores.masked_fill(~mask, -torch.inf).log_softmax(-1)
    divergence = torch.xlogy(teacher, teacher) - teacher * log_student.masked_fill(~mask, 0.0)
    return divergence.sum(), log_student.exp() * teacher.sum(-1, keepdim=True) - teacher


def teaching_rows(length: int, limit: int, device: torch.device) -> Tensor:
    """The query rows the indexer learns from: all, or `limit` evenly spaced ones with a random first row."""
    if limit == 0 or limit >= length:
        return torch.arange(length, device=device)
    offset = torch.rand(1, device=device)
    return ((torch.arange(limit, device=device) + offset) * (length / limit)).long().clamp_(max=length - 1)
