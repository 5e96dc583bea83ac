"""Multi-head latent attention with a sparse selection of keys (DeepSeek-V2, arXiv 2405.04434; DeepSeek-V3.2)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from kernels.rope import apply_rope
from kernels.sparse_attention import attention_distribution, listed_attention, listed_mask, packed_attention
from kernels.topk import select_keys, select_keys_fused
from model.absorbed import absorb, absorbs, attend, teach_visible
from model.config import ModelConfig
from model.indexer import Indexer, Selection, Target, indexer_loss, teaching_rows
from model.layers import Linear, RMSNorm
from model.packing import Packing

SELECTION_BLOCK = 256  # queries scored at once: bounds the memory of the index scores


@dataclass(frozen=True)
class AttentionContext:
    """What all layers of one forward pass share: packing, rotations [B, T, rope/2], the mode of DSA."""

    packing: Packing
    rope: Tensor
    mode: str  # "dense", "warmup" or "sparse"
    teach: bool  # whether the indexer's loss is wanted
    grad: bool  # whether the caller wants gradients (warm-up switches them off for all but the indexer)

    def first_rows(self, rows: int) -> AttentionContext:
        """The context of the first rows of the batch."""
        return replace(self, packing=self.packing.first_rows(rows), rope=self.rope[:rows])


class Attention(nn.Module):
    """MLA: queries and keys/values pass through low-rank latents; one rotary key is shared by all heads."""

    def __init__(self, config: ModelConfig, indexer_type: str) -> None:
        super().__init__()
        self.config = config
        heads, rank = config.num_attention_heads, config.kv_lora_rank
        self.q_a_proj = Linear(config.hidden_size, config.q_lora_rank)
        self.q_a_layernorm = RMSNorm(config.q_lora_rank)
        self.q_b_proj = Linear(config.q_lora_rank, heads * config.qk_head_dim)
        self.kv_a_proj_with_mqa = Linear(config.hidden_size, rank + config.qk_rope_head_dim)
        self.kv_a_layernorm = RMSNorm(rank)
        self.kv_b_proj = Linear(rank, heads * (config.qk_nope_head_dim + config.v_head_dim))
        self.o_proj = Linear(heads * config.v_head_dim, config.hidden_size)
        self.indexer = Indexer(config) if indexer_type == "full" else None
        self.scale = config.qk_head_dim**-0.5

    def forward(
        self, x: Tensor, context: AttentionContext, shared: Selection | None
    ) -> tuple[Tensor, Selection | None, Tensor | None]:
        """x [B, T, hidden] -> (output [B, T, hidden], the selection used, the indexer's loss or None)."""
        q_latent = self.q_a_layernorm(self.q_a_proj(x))
        query, compressed = self._queries(q_latent, context.rope), self._compressed(x, context.rope)
        selection = self._select(x, q_latent, context, shared)
        if selection is not None and selection.keys is not None and absorbs(x, self.config):
            out, loss = self._attend_absorbed(query, compressed, selection)
        else:
            out, loss = self._attend(query, compressed, context, selection)
        return self.o_proj(out.flatten(2)), selection, loss

    def _attend(
        self, query: Tensor, compressed: tuple[Tensor, Tensor], context: AttentionContext, selection: Selection | None
    ) -> tuple[Tensor, Tensor | None]:
        """(output [B, T, H, v], the indexer's loss or None) with keys and values of every head."""
        key, value = self._expand(*compressed)
        if selection is not None and selection.keys is not None:
            out = listed_attention(query, key, value, selection.keys, self.scale)
        else:
            out = packed_attention(query, key, value, context.packing.pieces, self.scale)
        if selection is None or selection.inputs is None or selection.rows is None:
            return out.transpose(1, 2), None
        with torch.set_grad_enabled(context.grad):
            if context.mode == "warmup" and absorbs(query, self.config):
                rows = absorb(query[:, :, selection.rows], *compressed, self.kv_b_proj.weight, self.config)
                loss = teach_visible(rows, selection, context.packing, self.scale)
            else:
                loss = indexer_loss(selection.inputs, self._target(query, key, context, selection))
        return out.transpose(1, 2), loss

    def _attend_absorbed(
        self, query: Tensor, compressed: tuple[Tensor, Tensor], selection: Selection
    ) -> tuple[Tensor, Tensor | None]:
        """The same over selected keys, on the latents themselves."""
        up = self.kv_b_proj.weight
        out, *loss = attend(absorb(query, *compressed, up, self.config), selection, up, self.scale, self.config)
        return out, loss[0] if loss else None

    def _queries(self, q_latent: Tensor, rope: Tensor) -> Tensor:
        """[B, H, T, nope + rope] of the normalised query latent."""
        config = self.config
        query = self.q_b_proj(q_latent).unflatten(-1, (-1, config.qk_head_dim))  # [B, T, H, nope + rope]
        nope, turned = query.split([config.qk_nope_head_dim, config.qk_rope_head_dim], dim=-1)
        return torch.cat([nope, apply_rope(turned, rope.unsqueeze(2))], dim=-1).transpose(1, 2)

    def _compressed(self, x: Tensor, rope: Tensor) -> tuple[Tensor, Tensor]:
        """The normalised latent [B, S, kv_lora_rank] and the rotated key that all heads share, [B, S, rope]."""
        sizes = [self.config.kv_lora_rank, self.config.qk_rope_head_dim]
        latent, turned = self.kv_a_proj_with_mqa(x).split(sizes, dim=-1)
        return self.kv_a_layernorm(latent), apply_rope(turned, rope)

    def _keys_values(self, x: Tensor, rope: Tensor) -> tuple[Tensor, Tensor]:
        """Keys [B, H, S, nope + rope] and values [B, H, S, v]."""
        return self._expand(*self._compressed(x, rope))

    def _expand(self, latent: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor]:
        """The same of what `_compressed` returned."""
        config = self.config
        per_head = self.kv_b_proj(latent).unflatten(-1, (config.num_attention_heads, -1))  # [B, S, H, nope + v]
        nope, value = per_head.split([config.qk_nope_head_dim, config.v_head_dim], dim=-1)
        shared = rotary.unsqueeze(2).expand(-1, -1, config.num_attention_heads, -1)
        return torch.cat([nope, shared], dim=-1).transpose(1, 2), value.transpose(1, 2)

    def _select(
        self, x: Tensor, q_latent: Tensor, context: AttentionContext, shared: Selection | None
    ) -> Selection | None:
        """The keys of each query and the index scores that are to learn, or those of the layer that is shared."""
        if context.mode == "dense":
            return None
        if self.indexer is None:
            return shared
        chosen = self._top_keys(x, q_latent, context) if context.mode == "sparse" else None
        if not context.teach:
            return Selection(chosen)
        rows = teaching_rows(x.shape[1], self.config.indexer_loss_rows, x.device)
        with torch.set_grad_enabled(context.grad):
            keys = self.indexer.keys(x, context.rope)
            inputs = self.indexer.inputs(x[:, rows], q_latent[:, rows], context.rope[:, rows], keys)
        return Selection(chosen, rows, inputs)

    @torch.no_grad()
    def _top_keys(self, x: Tensor, q_latent: Tensor, context: AttentionContext) -> Tensor | None:
        """The top-k visible keys of each query, [B, T, k] int32; None where no document has more than k."""
        if context.packing.longest <= self.config.index_topk or self.indexer is None:
            return None
        keys = self.indexer.keys(x, context.rope)
        last = torch.arange(1, x.shape[1] + 1, device=x.device).expand(x.shape[:2])
        if absorbs(x, self.config):
            inputs = self.indexer.inputs(x, q_latent, context.rope, keys)
            return select_keys_fused(*inputs, context.packing.starts, last, self.config.index_topk)
        lists = []
        for start in range(0, x.shape[1], SELECTION_BLOCK):  # a block of queries needs no keys after its last
            rows = slice(start, min(start + SELECTION_BLOCK, x.shape[1]))
            scores = self.indexer(x[:, rows], q_latent[:, rows], context.rope[:, rows], keys[:, : rows.stop])
            first = context.packing.starts[:, rows]
            lists.append(select_keys(scores, first, last[:, rows], self.config.index_topk))
        return torch.cat(lists, dim=1)

    def _target(self, query: Tensor, key: Tensor, context: AttentionContext, selection: Selection) -> Target:
        """What the indexer learns from: this layer's attention over the same keys, for blocks of its rows."""
        rows, listed = selection.rows, selection.keys
        assert rows is not None

        def target(block: slice) -> tuple[Tensor, Tensor]:
            part = rows[block]
            mask = context.packing.visible(part) if listed is None else listed_mask(listed[:, part], key.shape[2])
            return attention_distribution(query[:, :, part], key, mask, self.scale), mask

        return target
