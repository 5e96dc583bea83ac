"""What transformers' indexers were given and selected in a forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from kernels.rope import rope_table
from kernels.topk import topk_indices
from model import Transformer

EQUAL = 1e-6  # scores closer than this share of the largest are a tie: rounding decides


class IndexerCalls:
    """Records, while it is entered, the inputs and the selection of every indexer of a `GlmMoeDsaForCausalLM`."""

    def __init__(self, theirs: nn.Module) -> None:
        self.theirs = theirs
        self.calls: list[tuple[int, Tensor, Tensor, Tensor]] = []  # layer, hidden, query latent, selected keys
        self.hooks: list[Any] = []

    def __enter__(self) -> IndexerCalls:
        for index, layer in enumerate(self.theirs.model.layers):
            if layer.self_attn.indexer is not None:
                self.hooks.append(layer.self_attn.indexer.register_forward_hook(self._keep(index)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self.hooks:
            hook.remove()

    def _keep(self, index: int) -> Any:
        def keep(module: nn.Module, inputs: tuple[Tensor, ...], selected: Tensor) -> None:
            self.calls.append((index, inputs[0], inputs[1], selected.long()))

        return keep

    def _scores(self, ours: Transformer) -> Iterator[tuple[Tensor, Tensor]]:
        """Our causal scores of their inputs, [B, T, T] with -inf at unseen keys, and their selection [B, T, k]."""
        for index, hidden, latent, selected in self.calls:
            indexer = ours.model.layers[index].self_attn.indexer
            steps = torch.arange(hidden.shape[1])
            rope = rope_table(steps.expand(hidden.shape[:2]), ours.config.qk_rope_head_dim, ours.config.rope_theta)
            with torch.no_grad():
                scores = indexer(hidden, latent, rope, indexer.keys(hidden, rope))
            yield scores.masked_fill(steps > steps[:, None], -torch.inf), selected

    def tie_rows(self, ours: Transformer) -> Tensor:
        """[B, T]: whether in some layer the last score inside and the first outside the selection are equal."""
        decided = torch.zeros(self.calls[0][1].shape[:2], dtype=torch.bool)
        for scores, selected in self._scores(ours):
            k = selected.shape[-1]
            if k < scores.shape[-1]:
                best = scores.topk(k + 1, dim=-1).values
                gap = best[..., k - 1] - best[..., k]
                decided |= (best[..., k] > -torch.inf) & (gap <= EQUAL * best[..., 0].abs())
        return decided

    def held_scores(self, ours: Transformer) -> Iterator[tuple[Tensor, Tensor]]:
        """A layer: the sorted scores of the keys they selected and of those we select, [B, T, k], -1 if unseen."""
        for scores, selected in self._scores(ours):
            mine = topk_indices(scores, selected.shape[-1])
            held = scores.gather(-1, mine.clamp(min=0)).masked_fill(mine < 0, -1.0)
            yield _sorted(scores.gather(-1, selected)), _sorted(held)


def _sorted(scores: Tensor) -> Tensor:
    return scores.masked_fill(scores == -torch.inf, -1.0).sort(-1).values
