"""The decoding step in PyTorch: what the native step computes, and the path of a GPU, or where there is no compiler.

A step is a flat list of rows, one token each: decoding sessions have one row, sessions being prefilled have
several in ascending order of position. Every row writes its key to the cache before any row attends.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.sparse_decode import sparse_decode
from kernels.topk import select_keys, topk_mask
from model.absorbed import absorbs
from model.config import ModelConfig
from model.engine.cache import Cache
from model.engine.sampling import sample
from model.engine.weights import FeedForward, FusedLayer, FusedWeights, Routing

LATENT_NORM_EPS = 1e-6  # of the query and key/value latents' norms, as transformers' glm_moe_dsa has it
INDEX_NORM_EPS = 1e-6  # of the index key's LayerNorm
_ROWS_AT_ONCE = 256  # attention gathers each row's keys; this bounds the copy


class ReferenceStep:
    """Runs rows through the network; `topk` None attends densely."""

    def __init__(self, config: ModelConfig, weights: FusedWeights, cache: Cache, topk: int | None) -> None:
        self.config, self.weights, self.cache, self.topk = config, weights, cache, topk
        self.embedding, device = weights.embedding, weights.head.device
        frequency = torch.arange(0, config.qk_rope_head_dim, 2, dtype=torch.float64) / config.qk_rope_head_dim
        angles = torch.arange(cache.max_length)[:, None] * config.rope_theta**-frequency
        self.cos, self.sin = angles.cos().float().to(device), angles.sin().float().to(device)  # [max_length, rope/2]

    def __call__(self, tokens: Tensor, slots: Tensor, positions: Tensor, wanted: Tensor) -> Tensor:
        """tokens, slots, positions: [R]; wanted: [W] row numbers. Returns the logits of those rows, [W, V]."""
        return self.run(self.embedding, tokens, slots, positions, wanted)[1]

    def run(
        self, inputs: Tensor, tokens: Tensor, slots: Tensor, positions: Tensor, wanted: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Row r begins as inputs[tokens[r]]; inputs [N, hidden].

        Returns the state of every row after the final norm, without its gain, [R, hidden], and the wanted logits.
        """
        hidden = inputs[tokens]  # [R, hidden]
        chosen: Tensor | None = None
        for index, layer in enumerate(self.weights.layers):
            attended, chosen = self._attention(index, layer, hidden, slots, positions, chosen)
            hidden = hidden + attended
            hidden = hidden + self._feed_forward(layer, normalise(hidden, self.config.rms_norm_eps))
        states = normalise(hidden, self.config.rms_norm_eps)
        return states, F.linear(states[wanted], self.weights.head)

    def sample(self, logits: Tensor, temperatures: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and log-probabilities; see `sampling.sample`."""
        return sample(logits, temperatures, numbers)

    def _attention(
        self, index: int, layer: FusedLayer, hidden: Tensor, slots: Tensor, positions: Tensor, chosen: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        c = self.config
        low = F.linear(normalise(hidden, c.rms_norm_eps), layer.low)
        sizes = [c.q_lora_rank, c.kv_lora_rank, c.qk_rope_head_dim]
        q_latent, latent, key_rope, index_part = low.split([*sizes, low.shape[1] - sum(sizes)], dim=1)
        key = torch.cat([normalise(latent, LATENT_NORM_EPS), self._rotate(key_rope, positions)], dim=1)
        self.cache.latent[index][slots, positions] = key
        queries = F.linear(normalise(q_latent, LATENT_NORM_EPS), layer.queries)  # [R, heads and index heads]
        width = c.num_attention_heads * (c.kv_lora_rank + c.qk_rope_head_dim)
        heads = queries[:, :width].unflatten(1, (c.num_attention_heads, -1))  # [R, H, kv_lora + rope]
        nope, rope = heads.split([c.kv_lora_rank, c.qk_rope_head_dim], dim=2)
        heads = torch.cat([nope, self._rotate(rope, positions[:, None])], dim=2)
        if layer.key_norm is not None:
            chosen = self._select(index, layer.key_norm, index_part, queries[:, width:], slots, positions)
        return F.linear(self._attend(index, heads, slots, positions, chosen), layer.output), chosen

    def _select(
        self, index: int, norm: tuple[Tensor, Tensor], part: Tensor, queries: Tensor, slots: Tensor, positions: Tensor
    ) -> Tensor | None:
        """Which keys each row attends to, [R, L] bool; None where the longest row is within topk.

        On a GPU the list of them, [R, topk] int32, padded with -1.
        """
        c, keys = self.config, self.cache.index_keys[index]
        assert keys is not None
        key = F.layer_norm(part[:, : c.index_head_dim], (c.index_head_dim,), *norm, eps=INDEX_NORM_EPS)
        keys[slots, positions] = self._rotate_first(key, positions)
        length = int(positions.max()) + 1
        if self.topk is None or length <= self.topk:
            return None
        heads = self._rotate_first(queries.unflatten(1, (c.index_n_heads, -1)), positions[:, None])  # [R, J, D]
        scores = []
        for rows in torch.arange(len(slots), device=slots.device).split(_ROWS_AT_ONCE):
            dots = torch.einsum("rjd,rsd->rjs", heads[rows], keys[slots[rows], :length]).relu()
            scores.append(torch.einsum("rj,rjs->rs", part[rows, c.index_head_dim :], dots))
        if absorbs(heads, c):
            return select_keys(torch.cat(scores), torch.zeros_like(positions), positions + 1, self.topk)
        visible = torch.arange(length, device=slots.device) <= positions[:, None]
        return topk_mask(torch.cat(scores).masked_fill(~visible, -torch.inf), self.topk)

    def _attend(self, index: int, heads: Tensor, slots: Tensor, positions: Tensor, chosen: Tensor | None) -> Tensor:
        length = int(positions.max()) + 1
        if absorbs(heads, self.config):
            return self._attend_paged(index, heads, slots, positions, chosen)
        out = []
        for rows in torch.arange(len(slots), device=slots.device).split(_ROWS_AT_ONCE):
            keys = self.cache.latent[index][slots[rows], :length]  # [r, L, kv_lora + rope]
            visible = torch.arange(length, device=slots.device) <= positions[rows, None]
            if chosen is not None:
                visible = chosen[rows]
            scores = heads[rows] @ keys.transpose(1, 2)  # [r, H, L]
            probabilities = scores.masked_fill(~visible[:, None], -torch.inf).softmax(-1)
            out.append((probabilities @ keys[:, :, : self.config.kv_lora_rank]).flatten(1))
        return torch.cat(out)

    def _attend_paged(
        self, index: int, heads: Tensor, slots: Tensor, positions: Tensor, chosen: Tensor | None
    ) -> Tensor:
        """The same by the GPU's kernel, in which a slot of the cache is a page."""
        if chosen is None:
            length = int(positions.max()) + 1
            # Of few widths: the kernel is compiled for each
            every = torch.arange(1 << (length - 1).bit_length(), device=slots.device)
            chosen = torch.where(every <= positions[:, None], every, -1).int()
        pages, table = self.cache.latent[index], slots[:, None].int()
        out, _ = sparse_decode(heads, pages, table, chosen, 1.0, self.config.kv_lora_rank)
        return out.flatten(1)

    def _rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """Interleaved RoPE: the pairs are dimensions (2i, 2i + 1)."""
        cos, sin = self.cos[positions], self.sin[positions]
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)

    def _rotate_first(self, x: Tensor, positions: Tensor) -> Tensor:
        rope = self.config.qk_rope_head_dim
        return torch.cat([self._rotate(x[..., :rope], positions), x[..., rope:]], dim=-1)

    def _feed_forward(self, layer: FusedLayer, x: Tensor) -> Tensor:
        out = _swiglu(x, layer.dense)
        return out if layer.routing is None else out + self._experts(layer.routing, x)

    def _experts(self, routing: Routing, x: Tensor) -> Tensor:
        """All experts on all rows: with few rows, cheaper than sorting them."""
        c = self.config
        scores = F.linear(x, routing.router).sigmoid()  # [R, E]
        picked = (scores + routing.bias).topk(c.num_experts_per_tok, dim=1).indices
        weights = scores.gather(1, picked)
        if c.norm_topk_prob:
            weights = weights / (weights.sum(1, keepdim=True) + 1e-20)
        gates = torch.zeros_like(scores).scatter_(1, picked, weights * c.routed_scaling_factor)
        gate, up = (x @ routing.experts.gate_up.transpose(1, 2)).chunk(2, dim=-1)  # [E, R, intermediate]
        return ((F.silu(gate) * up * gates.T[:, :, None]) @ routing.experts.down.transpose(1, 2)).sum(0)


def normalise(x: Tensor, eps: float) -> Tensor:
    """RMSNorm without gain."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def _swiglu(x: Tensor, weights: FeedForward) -> Tensor:
    gate, up = F.linear(x, weights.gate_up).chunk(2, dim=-1)
    return F.linear(F.silu(gate) * up, weights.down)
