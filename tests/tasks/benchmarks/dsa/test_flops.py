"""The formula counts what the network has."""

from __future__ import annotations

from dataclasses import replace

import torch

from model import ModelConfig, Transformer
from tasks.benchmarks.dsa.flops import active_parameters, core, pairs, step_flops

LAPTOP = replace(ModelConfig(), num_nextn_predict_layers=0)


def test_active_parameters_are_the_matrices_a_token_passes() -> None:
    with torch.device("meta"):
        network = Transformer(LAPTOP)
    count = 0.0
    for name, parameter in network.named_parameters():
        if parameter.dim() < 2 or ".indexer." in name or "embed_tokens" in name:
            continue
        passed = LAPTOP.num_experts_per_tok / LAPTOP.n_routed_experts if ".experts." in name else 1.0
        count += passed * parameter.numel()
    assert active_parameters(LAPTOP) == count


def test_pairs_are_those_of_a_causal_row() -> None:
    for keys in (1, 3, 7, 20):
        assert pairs(7, keys) == sum(min(t + 1, keys) for t in range(7))


def test_sparse_costs_less_at_length_and_warm_up_less_than_training() -> None:
    config = replace(LAPTOP, index_topk=128)
    assert core(config, 128, "sparse") == core(config, 128, "dense")
    assert step_flops(config, 1, 16384, "sparse") < 0.5 * step_flops(config, 1, 16384, "dense")
    assert step_flops(config, 4, 1024, "warmup") < step_flops(config, 4, 1024, "dense")
    assert step_flops(config, 4, 1024, "dense") == 4 * step_flops(config, 1, 1024, "dense")
