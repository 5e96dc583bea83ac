"""The warm-up teaches the indexers and leaves everything else."""

from __future__ import annotations

from dataclasses import replace

import torch

from tasks.benchmarks.dsa.warmup import indexer_groups, warm_up
from tasks.training.schedule import Phase
from tasks.training.settings import OptimizerSettings
from tests.tasks.benchmarks.dsa import tiny
from tests.tasks.training.tiny import corpus

PHASE = Phase(
    "warmup", "warmup", 30, 2, 32, {"corpus": 1.0}, OptimizerSettings(muon_lr=0.05, adamw_lr=0.02), train="indexer"
)


def test_every_weight_of_the_indexers_is_in_one_group() -> None:
    network = tiny.transformer()
    grouped = [id(p) for group in indexer_groups(network, PHASE) for p in group["params"]]
    wanted = [id(p) for name, p in network.named_parameters() if ".indexer." in name]
    assert sorted(grouped) == sorted(wanted)


def test_the_divergence_falls_and_the_backbone_stays_bit_for_bit() -> None:
    network = tiny.transformer()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    losses: list[float] = []
    warm_up(network, PHASE, {"corpus": corpus(documents=False)}, 1, lambda step, found: losses.append(found["loss"]))
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if ".indexer." in name}
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert all(p.requires_grad for p in network.parameters())


def test_the_same_seed_gives_the_same_indexer() -> None:
    first, second, other = (tiny.transformer() for _ in range(3))
    for network, seed in ((first, 1), (second, 1), (other, 2)):
        warm_up(network, replace(PHASE, steps=3), {"corpus": corpus()}, seed, lambda step, found: None)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
