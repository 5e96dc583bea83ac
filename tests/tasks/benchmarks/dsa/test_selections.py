"""What stands in for an indexer selects what it says."""

from __future__ import annotations

from dataclasses import replace

import torch

from model import Transformer
from model.attention import SELECTION_BLOCK
from tasks.benchmarks.dsa.selections import (
    HalfSplitRope,
    RandomChoice,
    fitted,
    half_split_rope,
    random_choice,
    raw_queries,
    replaced,
    resized,
    window,
)
from tests.tasks.benchmarks.dsa import tiny


def test_the_window_is_the_last_keys() -> None:
    with replaced(tiny.transformer(index_topk=8), window) as network:
        found = tiny.selected(network)
    for query in range(40):
        seen = range(max(0, query - 7), query + 1)
        assert found[0, query].tolist() == [*seen, *[-1] * (8 - len(seen))]


def test_the_window_ends_where_the_document_begins() -> None:
    documents = torch.tensor([0] * 15 + [1] * 25).expand(2, -1)
    with replaced(tiny.transformer(index_topk=8), window) as network:
        found = tiny.selected(network, documents=documents)
    assert found[0, 17].tolist() == [15, 16, 17, -1, -1, -1, -1, -1]


def test_random_keys_are_the_same_at_every_call_and_never_of_the_future() -> None:
    with replaced(tiny.transformer(index_topk=8), random_choice) as network:
        first, second = tiny.selected(network), tiny.selected(network)
    assert torch.equal(first, second)
    places = torch.arange(40)[None, :, None]
    assert bool((first <= places).all())
    assert bool(((first >= 0).sum(-1) == (places[..., 0] + 1).clamp(max=8)).all())
    assert len({tuple(row) for row in first[0, 20:].tolist()}) == 20  # another choice for every query


def test_random_keys_are_spread_evenly_and_differ_from_layer_to_layer() -> None:
    hidden = torch.zeros(1, 512, 4)
    empty = hidden.new_zeros(0)
    layers = [RandomChoice(seed)(hidden, empty, empty, hidden) for seed in (1, 2)]
    share = (layers[0] > 2**23).float().mean()
    assert abs(float(share) - 0.5) < 0.005
    assert abs(float(torch.corrcoef(torch.stack([x.flatten() for x in layers]))[0, 1])) < 0.01


def test_random_keys_do_not_depend_on_the_block_a_query_is_scored_in() -> None:
    length = SELECTION_BLOCK + 50
    with replaced(tiny.transformer(index_topk=8), random_choice) as network:
        long = tiny.selected(network, length)
        scores = network.model.layers[0].self_attn.indexer  # type: ignore[union-attr]
        whole = torch.zeros(1, length, 4)
        rest = scores(whole[:, SELECTION_BLOCK:], None, None, whole)  # type: ignore[operator]
        alone = scores(whole, None, None, whole)[:, SELECTION_BLOCK:]  # type: ignore[operator]
    assert torch.equal(rest, alone)
    assert long.shape[1] == length


def test_the_own_indexers_come_back() -> None:
    network = tiny.transformer()
    own = [layer.self_attn.indexer for layer in network.model.layers]  # type: ignore[union-attr]
    with replaced(network, window):
        assert not any(".indexer." in name for name, _ in network.named_parameters())
        assert not network.indexer_learns
    assert own == [layer.self_attn.indexer for layer in network.model.layers]  # type: ignore[union-attr]


def test_half_split_rotation_is_the_textbooks() -> None:
    network = tiny.transformer()
    wrong = HalfSplitRope(network.config)
    ids = torch.zeros(1, 12, dtype=torch.int64)
    rope, x = tiny.context(ids, network).rope, torch.randn(1, 12, wrong.head_dim)
    low, high, rest = x.split([wrong.rope_dim // 2, wrong.rope_dim // 2, wrong.head_dim - wrong.rope_dim], dim=-1)
    cos, sin = rope.real, rope.imag
    expected = torch.cat([low * cos - high * sin, high * cos + low * sin, rest], dim=-1)
    assert torch.allclose(wrong._rotate(x, rope), expected, atol=1e-6)


def test_the_wrong_rotation_selects_other_keys_with_the_same_weights() -> None:
    network = tiny.transformer(index_topk=8)
    right = tiny.selected(network)
    with replaced(network, half_split_rope):
        wrong = tiny.selected(network)
    assert not torch.equal(right, wrong)


def test_without_the_query_norm_only_its_gains_are_missing() -> None:
    network = tiny.transformer(index_topk=8)
    attention, own = network.model.layers[0].self_attn, tiny.selected(network)
    with replaced(network, raw_queries):
        assert torch.equal(tiny.selected(network), own)  # gains of one: no key changes
    with torch.no_grad():
        attention.q_a_layernorm.weight.copy_(torch.linspace(0.1, 3.0, network.config.q_lora_rank))  # type: ignore[union-attr, operator]
    with replaced(network, raw_queries):
        raw = tiny.selected(network)
    assert not torch.equal(raw, tiny.selected(network))


def test_a_resized_copy_selects_fewer_keys_with_equal_weights() -> None:
    network = tiny.transformer(index_topk=8)
    smaller = resized(network, index_topk=4)
    assert tiny.selected(smaller).shape[-1] == 4
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), smaller.parameters(), strict=True))
    with torch.no_grad():
        next(smaller.parameters()).add_(1.0)
    assert not torch.equal(next(network.parameters()), next(smaller.parameters()))


def test_what_learns_without_the_norm_learns_in_the_layers_own_indexer() -> None:
    network = tiny.transformer()
    names = set(network.state_dict())
    with replaced(network, raw_queries):
        assert set(network.state_dict()) == names
        with torch.no_grad():
            network.model.layers[0].self_attn.indexer.wk.weight.fill_(2.0)  # type: ignore[union-attr]
    assert bool((network.state_dict()["model.layers.0.self_attn.indexer.wk.weight"] == 2.0).all())


def test_indexers_of_another_size_are_as_initialised_and_the_rest_is_kept() -> None:
    network = tiny.transformer()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    larger = replace(network.config, index_n_heads=2 * network.config.index_n_heads)
    initial = Transformer(larger)
    initial.init_weights(3)
    same, grown = (fitted(network, config, 3).state_dict() for config in (network.config, larger))
    assert all(torch.equal(value, same[name]) for name, value in network.state_dict().items())
    for name, value in grown.items():
        wanted = initial if ".indexer." in name else network
        assert torch.equal(value, wanted.state_dict()[name])
