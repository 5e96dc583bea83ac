"""Captured mass: the oracle captures all of it, and everything else less."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kernels.sparse_attention import attention_distribution
from model.attention import Attention
from tasks.benchmarks.dsa.mass import captured
from tasks.benchmarks.dsa.selections import random_choice, replaced, window
from tasks.training.data import Row
from tests.tasks.benchmarks.dsa import tiny


class Oracle(nn.Module):
    """Scores keys by the attention they are about to get."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.of = [attention]  # in a list: no child of this module
        self.rope: Tensor

    def keys(self, hidden: Tensor, rope: Tensor) -> Tensor:
        self.rope = rope
        return hidden

    def forward(self, query_hidden: Tensor, q_latent: Tensor, query_rope: Tensor, keys: Tensor) -> Tensor:
        attention, (queries, count) = self.of[0], (query_hidden.shape[1], keys.shape[1])
        query = attention._queries(q_latent, query_rope)
        key, _ = attention._keys_values(keys, self.rope[:, :count])
        visible = torch.arange(count - queries, count)[:, None] >= torch.arange(count)
        return attention_distribution(query, key, visible[None].expand(len(keys), -1, -1), attention.scale)


def oracle(layer: int, attention: Attention) -> nn.Module:
    return Oracle(attention)


def rows(length: int = 48) -> list[Row]:
    tokens = np.random.default_rng(0).integers(1, 64, (2, length))
    return [Row(ids, np.zeros(length, dtype=np.int64), np.ones(length, dtype=np.float32)) for ids in tokens]


@pytest.mark.parametrize("mode", ["dense", "sparse"])
def test_the_oracle_captures_everything(mode: str) -> None:
    with replaced(tiny.transformer(index_topk=8), oracle) as network:
        found = captured(network, rows(), mode)  # type: ignore[arg-type]
    assert [mass.captured for mass in found] == pytest.approx([1.0, 1.0], abs=1e-5)
    assert all(8 / 48 < mass.oracle < 1 for mass in found)


@pytest.mark.parametrize("make", [window, random_choice, None])
def test_others_capture_less(make: object) -> None:
    with replaced(tiny.transformer(index_topk=8), make) as network:  # type: ignore[arg-type]
        found = captured(network, rows(), "dense")
    assert all(0.1 < mass.captured < 0.99 for mass in found)


def test_uniform_attention_gives_every_choice_the_oracles_mass() -> None:
    network = tiny.transformer(index_topk=8)
    with torch.no_grad():
        for layer in network.model.layers:
            layer.self_attn.q_b_proj.weight.zero_()  # type: ignore[union-attr, operator]
    with replaced(network, random_choice):
        found = captured(network, rows(), "dense")
    assert [mass.captured for mass in found] == pytest.approx([1.0, 1.0], abs=1e-5)
    expected = np.mean([8 / (t + 1) for t in range(8, 48)])
    assert [mass.oracle for mass in found] == pytest.approx([expected] * 2, abs=1e-5)


def test_nothing_to_choose_is_all() -> None:
    assert [m.captured for m in captured(tiny.transformer(index_topk=64), rows(), "sparse")] == [1.0, 1.0]
