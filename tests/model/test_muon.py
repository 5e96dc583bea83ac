"""Muon and Muon Split."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import Muon, parameter_groups
from model.muon import indexer_groups, orthogonalise
from tests.model.shapes import small_transformer, tokens


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(2, 24), extra=st.integers(0, 24), seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3))
def test_orthogonalised_matrices_have_singular_values_near_one(rows: int, extra: int, seed: int, scale: float) -> None:
    matrix = scale * torch.randn(3, rows, rows + extra + 4, generator=torch.Generator().manual_seed(seed))
    values = torch.linalg.svdvals(orthogonalise(matrix, steps=8))
    assert values.min() > 0.5
    assert values.max() < 1.35


def test_orthogonalisation_keeps_the_singular_vectors() -> None:
    matrix = torch.randn(1, 8, 12, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    polar = left @ right
    assert torch.nn.functional.cosine_similarity(orthogonalise(matrix).flatten(), polar.flatten(), dim=0) > 0.97


def one_step(split: bool) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    transformer, ids = small_transformer(), tokens(2, 20)
    before = {name: p.detach().clone() for name, p in transformer.named_parameters()}
    optimizer = Muon(parameter_groups(transformer, 1.0, 0.0, split=split), newton_schulz_steps=10)
    transformer.loss(ids, torch.ones(2, 20)).total.backward()
    optimizer.step()
    return before, {name: p.detach() for name, p in transformer.named_parameters()}


def test_each_head_block_is_orthogonalised_apart() -> None:
    before, after = one_step(split=True)
    name = "model.layers.0.self_attn.kv_b_proj.weight"
    update = (before[name] - after[name]).view(2, 16, 16)  # [heads, nope + v, rank]
    for block in (update[:, :8], update[:, 8:]):
        values = torch.linalg.svdvals(block)
        assert values.min() > 0.5
        assert values.max() < 1.35


def test_without_the_split_the_whole_matrix_is_orthogonal() -> None:
    before, after = one_step(split=False)
    name = "model.layers.0.self_attn.kv_b_proj.weight"
    values = torch.linalg.svdvals((before[name] - after[name]) / 2**0.5)  # [32, 16]: scaled by sqrt(rows / columns)
    assert values.min() > 0.5
    assert values.max() < 1.35


def test_every_trainable_parameter_is_in_exactly_one_group() -> None:
    transformer = small_transformer()
    transformer.lm_head.weight.requires_grad_(False)
    grouped = [p for group in parameter_groups(transformer, 0.02, 1e-3) for p in group["params"]]
    assert len(grouped) == len({id(p) for p in grouped})
    assert {id(p) for p in grouped} == {id(p) for p in transformer.parameters() if p.requires_grad}


def test_adamw_agrees_with_torch() -> None:
    start = [torch.randn(5, 3), torch.randn(7)]
    ours, theirs = ([torch.nn.Parameter(v.clone()) for v in start] for _ in range(2))
    optimizers = (
        Muon([{"name": "adamw", "params": ours, "lr": 1e-2, "weight_decay": 0.1}], betas=(0.9, 0.95), eps=1e-8),
        torch.optim.AdamW(theirs, lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1),
    )
    for step in range(5):
        for parameters, optimizer in zip((ours, theirs), optimizers, strict=True):
            for i, parameter in enumerate(parameters):
                parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(10 * step + i))
            optimizer.step()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, theirs, strict=True))


def test_training_resumes_exactly_from_a_saved_state() -> None:
    transformer, ids = small_transformer(), tokens(2, 20)
    optimizer = Muon(parameter_groups(transformer, 0.02, 1e-2))

    def train(model: torch.nn.Module, stepper: torch.optim.Optimizer, steps: int) -> None:
        for _ in range(steps):
            stepper.zero_grad()
            model.loss(ids, torch.ones(2, 20), mode="sparse").total.backward()  # type: ignore[operator]
            stepper.step()

    train(transformer, optimizer, 3)
    twin = small_transformer(9)
    twin.load_state_dict(transformer.state_dict())
    resumed = Muon(parameter_groups(twin, 0.5, 0.5))
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(transformer, optimizer, 3)
    train(twin, resumed, 3)
    assert all(torch.equal(a, b) for a, b in zip(transformer.parameters(), twin.parameters(), strict=True))


def test_a_vector_is_refused_by_muon() -> None:
    with pytest.raises(ValueError, match="vector"):
        Muon([{"name": "muon", "params": [torch.nn.Parameter(torch.ones(3))]}])


def test_every_weight_of_the_indexers_is_in_one_group_of_a_warm_up() -> None:
    transformer = small_transformer()
    grouped = [id(p) for group in indexer_groups(transformer, 0.1, 0.01) for p in group["params"]]
    wanted = [id(p) for name, p in transformer.named_parameters() if ".indexer." in name]
    assert wanted
    assert sorted(grouped) == sorted(wanted)
