"""The latent key/value cache and the indexer's key cache, one row a token, one slot a session."""

import torch
from torch import Tensor

from model.config import ModelConfig


class Cache:
    """Preallocated caches of every layer.

    `latent[layer]` is [slots, max_length, kv_lora_rank + qk_rope_head_dim]: the normalised latent without its gain
    (the gain is part of the fused weights) and the rotated shared key. `index_keys[layer]` is
    [slots, max_length, index_head_dim], None in layers that reuse another layer's selection. Rows that no token
    was written to are never read, so freed slots need no clearing.
    """

    def __init__(self, config: ModelConfig, slots: int, max_length: int, device: torch.device) -> None:
        width = config.kv_lora_rank + config.qk_rope_head_dim
        self.slots, self.max_length = slots, max_length
        self.latent = [torch.zeros(slots, max_length, width, device=device) for _ in range(config.num_hidden_layers)]
        self.index_keys: list[Tensor | None] = [
            torch.zeros(slots, max_length, config.index_head_dim, device=device) if kind == "full" else None
            for kind in config.indexer_types
        ]

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` rows of one slot to another (two sessions that begin alike)."""
        for layer in [*self.latent, *self.index_keys]:
            if layer is not None:
                layer[target, :length] = layer[source, :length]
