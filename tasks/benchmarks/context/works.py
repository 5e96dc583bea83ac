"""What is measured at a context length: the network forward and backward, a decode step, and attention alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kernels.sparse_attention import listed_attention, packed_attention
from model import ModelConfig, Transformer
from model.engine import Engine, Request

Work = Callable[[], None]
DECODE_STEPS = 16  # in one call of the decode work


def forward(config: ModelConfig, mode: str, length: int) -> Work:
    """Log-probabilities of one row, without gradients."""
    network, ids = _network(config), _tokens(config, length)

    def work() -> None:
        with torch.no_grad():
            network.log_probs(ids, None, mode)

    return work


def training(config: ModelConfig, mode: str, length: int) -> Work:
    """Loss and gradients of one row, the indexer's too in sparse mode; no optimizer."""
    network, ids = _network(config), _tokens(config, length)

    def work() -> None:
        network.zero_grad()
        network.loss(ids, torch.ones(ids.shape), None, mode).total.backward()

    return work


def decode(config: ModelConfig, mode: str, length: int) -> Work:
    """`DECODE_STEPS` steps of the engine behind `length` cached tokens, whose cache rows are random."""
    engine = Engine(_network(config), 1, length + 2 * DECODE_STEPS, mode=mode, prefill_rows=0)
    for rows in (*engine.cache.latent, *engine.cache.index_keys):
        if rows is not None:
            rows.normal_(generator=torch.Generator().manual_seed(0))
    engine.submit(Request("0", "0", _tokens(config, length)[0].tolist(), 2 * DECODE_STEPS, temperature=0.0))
    engine.step()  # computes one token of the prompt; the rest is said to be there

    def work() -> None:
        engine.sessions.length[0], engine.sessions.cached[0] = length, length - 1
        for _ in range(DECODE_STEPS):
            engine.step()

    return work


def core_forward(config: ModelConfig, mode: str, length: int) -> Work:
    """One layer's attention alone: over listed keys, or causal over all."""
    attend, inputs = _core(config, mode, length)

    def work() -> None:
        with torch.no_grad():
            attend(*inputs)

    return work


def core_training(config: ModelConfig, mode: str, length: int) -> Work:
    """The same with its gradients."""
    attend, inputs = _core(config, mode, length)

    def work() -> None:
        attend(*inputs).sum().backward()

    return work


WORKS: dict[str, Callable[[ModelConfig, str, int], Work]] = {
    "forward": forward,
    "training": training,
    "decode": decode,
    "core_forward": core_forward,
    "core_training": core_training,
}


def spread_keys(length: int, topk: int) -> Tensor:
    """[1, length, topk] int32: for each query that many of the keys it may see, one from each of topk equal parts.

    A query that sees fewer lists all of them; the list ascends and is padded with -1.
    """
    query, part = torch.arange(length)[:, None], torch.arange(topk)
    shift = torch.rand(length, topk, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = (query + 1) * part // topk, (query + 1) * (part + 1) // topk
    many = low + (shift * (high - low)).long()
    few = torch.where(part <= query, part, -1)
    return torch.where(query + 1 >= topk, many, few)[None].int()


def _core(config: ModelConfig, mode: str, length: int) -> tuple[Callable[..., Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    sizes = (config.qk_head_dim, config.qk_head_dim, config.v_head_dim)
    inputs = [
        torch.randn(1, config.num_attention_heads, length, size, generator=generator, requires_grad=True)
        for size in sizes
    ]
    scale = config.qk_head_dim**-0.5
    if mode == "dense":
        return lambda q, k, v: packed_attention(q, k, v, None, scale), inputs
    keys = spread_keys(length, config.index_topk)
    return lambda q, k, v: listed_attention(q, k, v, keys, scale), inputs


def _network(config: ModelConfig) -> Transformer:
    network = Transformer(config)
    network.init_weights(0)
    return network


def _tokens(config: ModelConfig, length: int) -> Tensor:
    return torch.randint(config.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))
