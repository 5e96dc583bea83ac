"""Other ways to select keys, and mistakes in the indexer: modules that stand where a layer's indexer stood.

The network knows nothing of them: a layer asks its indexer for `keys` and for scores, and the top-k of the scores is
what it attends to. Window and random choice have no parameters, so nothing teaches them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from model import ModelConfig, Transformer
from model.attention import Attention
from model.indexer import Indexer, IndexInputs

Make = Callable[[int, Attention], nn.Module]  # of a layer's number and its attention


class Recency(nn.Module):
    """Scores a key by its place, so that the top-k are the last k keys a query sees: a sliding window."""

    def keys(self, hidden: Tensor, rope: Tensor) -> Tensor:
        """Keys [B, S, 1]; only their number counts."""
        return hidden.new_zeros(*hidden.shape[:2], 1)

    def forward(self, query_hidden: Tensor, q_latent: Tensor, query_rope: Tensor, keys: Tensor) -> Tensor:
        """Scores [B, T, S]: 0, 1, 2... along the keys, exact in fp32 up to 2^24 of them."""
        place = torch.arange(keys.shape[1], dtype=torch.float32, device=keys.device)
        return place.expand(keys.shape[0], query_hidden.shape[1], -1)


class RandomChoice(Recency):
    """Scores a pair of query and key by a hash of their places: k keys at random, the same at every call."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def forward(self, query_hidden: Tensor, q_latent: Tensor, query_rope: Tensor, keys: Tensor) -> Tensor:
        """Scores [B, T, S] in [0, 2^24). The queries are the last T of the S places, as a causal block has them."""
        queries, count = query_hidden.shape[1], keys.shape[1]
        key = torch.arange(count, device=keys.device)
        hashed = _mix(_mix(key[count - queries :, None] + (self.seed << 20)) + key)
        return (hashed & 0xFFFFFF).float().expand(keys.shape[0], -1, -1)


def _mix(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele et al., OOPSLA 2014) on int64, which wraps; shifts are made logical."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & ((1 << 33) - 1))


class HalfSplitRope(Indexer):
    """The same weights, rotated as if dimensions j and j + d/2 were a pair; the trained layout pairs 2j and 2j + 1."""

    def _rotate(self, x: Tensor, rope: Tensor) -> Tensor:
        turned, rest = x.split([self.rope_dim, self.head_dim - self.rope_dim], dim=-1)
        paired = turned.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
        rotated = super()._rotate(torch.cat([paired, rest], dim=-1), rope)[..., : self.rope_dim]
        halves = rotated.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
        return torch.cat([halves, rest], dim=-1)


class RawQueries(Indexer):
    """The same weights, but queries are made of the latent before its RMSNorm."""

    def __init__(self, attention: Attention) -> None:
        super().__init__(attention.config)
        self.latent = attention.q_a_proj.forward  # a function: the projection stays the attention's alone

    def inputs(self, query_hidden: Tensor, q_latent: Tensor, query_rope: Tensor, keys: Tensor) -> IndexInputs:
        """What scores are made of; `q_latent`, the normalised one, is ignored."""
        return super().inputs(query_hidden, self.latent(query_hidden), query_rope, keys)


def window(layer: int, attention: Attention) -> nn.Module:
    """The last k keys."""
    return Recency()


def random_choice(layer: int, attention: Attention) -> nn.Module:
    """k keys at random, others in every layer."""
    return RandomChoice(layer + 1)


def half_split_rope(layer: int, attention: Attention) -> nn.Module:
    """The layer's own indexer with the wrong layout of its rotary dimensions."""
    wrong = HalfSplitRope(attention.config)
    wrong.load_state_dict(_indexer(attention).state_dict())
    return wrong


def raw_queries(layer: int, attention: Attention) -> nn.Module:
    """The layer's own indexer without the norm in front of its queries: what learns there, learns in the layer's."""
    wrong = RawQueries(attention)
    for name, part in _indexer(attention).named_children():
        setattr(wrong, name, part)
    return wrong


def attentions(transformer: Transformer) -> list[Attention]:
    """Every attention with an indexer, the MTP layer's last."""
    return [m for m in transformer.modules() if isinstance(m, Attention) and m.indexer is not None]


@contextmanager
def replaced(transformer: Transformer, make: Make | None) -> Iterator[Transformer]:
    """The network with other indexers inside the block; None leaves its own."""
    layers = attentions(transformer) if make is not None else []
    kept = [layer.indexer for layer in layers]
    try:
        for number, layer in enumerate(layers):
            assert make is not None
            layer.indexer = make(number, layer)  # type: ignore[assignment]
        yield transformer
    finally:
        for layer, indexer in zip(layers, kept, strict=True):
            layer.indexer = indexer


def resized(transformer: Transformer, **changes: Any) -> Transformer:
    """A copy of the network under a configuration with these changes, which must leave every weight its shape."""
    copy = Transformer(replace(transformer.config, **changes), seed=None)
    copy.load_state_dict(transformer.state_dict())
    return copy


def fitted(transformer: Transformer, config: ModelConfig, seed: int) -> Transformer:
    """A copy under `config`. Indexers of another size are new, as `init_weights(seed)` makes them; the rest is kept."""
    copy, weights = Transformer(config, seed), transformer.state_dict()
    sizes = [(c.index_n_heads, c.index_head_dim) for c in (transformer.config, config)]
    kept = {n: v for n, v in weights.items() if sizes[0] == sizes[1] or ".indexer." not in n}
    copy.load_state_dict({**copy.state_dict(), **kept})
    return copy


def _indexer(attention: Attention) -> Indexer:
    assert attention.indexer is not None
    return attention.indexer
