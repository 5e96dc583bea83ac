"""How much of the attention mass that an oracle's k keys hold is on the keys a layer selects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernels.sparse_attention import attention_distribution, listed_mask
from model import Transformer
from model.attention import Attention, AttentionContext
from tasks.training.data import Mode, Row, stack

BLOCK = 256  # queries measured at once: bounds the memory of the attention weights


@dataclass(frozen=True)
class Mass:
    """Of one layer: share of the oracle's mass that is captured, and of all mass that the oracle's k keys hold."""

    captured: float
    oracle: float


@torch.no_grad()
def captured(transformer: Transformer, rows: Sequence[Row], mode: Mode) -> list[Mass]:
    """The mass of each trunk layer, a mean over the queries that see more than k keys; rows of one document each.

    The oracle takes the k visible keys with the largest attention weight, averaged over heads (the indexer's
    teacher). mode: whether a layer's input is that of the dense or of the sparse network. 1.0 where nothing is left
    to choose.
    """
    found: dict[int, list[Tensor]] = {}

    def measure(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(module, Attention)
        found.setdefault(id(module), []).append(_shares(module, inputs[0], inputs[1]))

    hooks = [layer.self_attn.register_forward_pre_hook(measure) for layer in transformer.model.layers]
    try:
        for row in rows:
            transformer.log_probs(stack([row]).token_ids, None, mode)
    finally:
        for hook in hooks:
            hook.remove()
    return [_mean(torch.cat(shares)) for shares in found.values()]


def _mean(shares: Tensor) -> Mass:
    if not len(shares):
        return Mass(1.0, 1.0)
    return Mass(float((shares[:, 0] / shares[:, 1]).mean()), float(shares[:, 1].mean()))


def _shares(attention: Attention, x: Tensor, context: AttentionContext) -> Tensor:
    """[queries that choose, 2]: the mass of the selected keys and of the oracle's. x [1, T, hidden]."""
    latent = attention.q_a_layernorm(attention.q_a_proj(x))
    listed, topk = attention._top_keys(x, latent, context), attention.config.index_topk
    if listed is None:
        return x.new_zeros(0, 2)
    query, (key, _) = attention._queries(latent, context.rope), attention._keys_values(x, context.rope)
    shares = []
    for rows in torch.arange(topk, x.shape[1]).split(BLOCK):
        visible = context.packing.visible(rows)
        weights = attention_distribution(query[:, :, rows], key, visible, attention.scale)
        chosen = weights.masked_fill(~listed_mask(listed[:, rows], x.shape[1]), 0.0).sum(-1)
        shares.append(torch.stack([chosen[0], weights.topk(topk).values.sum(-1)[0]], dim=-1))
    return torch.cat(shares)
