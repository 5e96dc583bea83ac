from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from model import Transformer
from tasks.training.data import Batch, draw_batch
from tasks.training.engine import LossFunction, Trainer, batch_loss
from tasks.training.errors import DivergenceError
from tasks.training.settings import OptimizerSettings
from tests.tasks.training import tiny


def batch(step: int = 0, rows: int = 4) -> Batch:
    return draw_batch(tiny.corpus(documents=False), 1, step, rows, 32)


def sgd_like() -> OptimizerSettings:
    return OptimizerSettings(muon_lr=0.01, adamw_lr=1e-3, clip=1e9)


def frozen_router_loss(part: Batch) -> LossFunction:
    def loss_function(transformer: Transformer) -> tuple[Tensor, dict[str, Any]]:
        return transformer.loss(part.token_ids, part.loss_weights, None, "dense").total, {}

    return loss_function


@pytest.mark.parametrize(
    "settings",
    [
        OptimizerSettings(),
        OptimizerSettings(name="adamw", zero_stage=2),
        OptimizerSettings(dtype="bfloat16"),
        OptimizerSettings(name="adamw", zero_stage=1, dtype="bfloat16"),
        OptimizerSettings(name="adamw", zero_stage=3, dtype="bfloat16"),
    ],
    ids=["muon", "zero2", "bfloat16", "zero1-bfloat16", "zero3-bfloat16"],
)
def test_loss_falls(settings: OptimizerSettings) -> None:
    trainer = Trainer(tiny.transformer(), settings)
    losses = [trainer.step(batch_loss(batch(), "dense"))["loss"] for _ in range(12)]
    assert losses[-1] < losses[0] - 0.2


def test_ranks_exchange_rounded_what_products_round_and_no_more() -> None:
    transformer = tiny.transformer()
    Trainer(transformer, OptimizerSettings(name="adamw", zero_stage=1, dtype="bfloat16"))
    rounded = {name for name, p in transformer.named_parameters() if getattr(p, "comm_dtype", None) is torch.bfloat16}
    assert "model.layers.0.self_attn.o_proj.weight" in rounded
    assert not any(".indexer." in name or "norm" in name or ".gate.weight" in name for name in rounded)


def test_accumulated_gradients_equal_those_of_one_batch() -> None:
    whole, parts = tiny.transformer(), tiny.transformer()
    full = batch()
    halves = [
        Batch(full.token_ids[i : i + 2], full.document_ids[i : i + 2], full.loss_weights[i : i + 2]) for i in (0, 2)
    ]
    one = Trainer(whole, sgd_like()).step(frozen_router_loss(full))
    two = Trainer(parts, sgd_like()).step(*[frozen_router_loss(half) for half in halves])
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)
    assert one["grad_norm"] == pytest.approx(two["grad_norm"], rel=1e-4)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_warm_up_moves_the_indexer_alone(name: Literal["muon", "adamw"]) -> None:
    transformer = tiny.transformer()
    before = {name: value.clone() for name, value in transformer.state_dict().items()}  # the routers' biases too
    Trainer(transformer, OptimizerSettings(name=name), train="indexer").step(batch_loss(batch(), "warmup"))
    moved = {name for name, value in transformer.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(".indexer." in name for name in moved)


def test_a_warm_up_gives_muon_the_indexers_matrices() -> None:
    transformer = tiny.transformer()
    settings = OptimizerSettings(muon_lr=0.05, adamw_lr=0.02, momentum=0.8)
    groups = Trainer(transformer, settings, train="indexer").optimizer.param_groups
    heads = (transformer.config.index_head_dim,)
    assert [(g["name"], g["blocks"], g["lr"], g["momentum"]) for g in groups] == [
        ("muon", heads, 0.05, 0.8),
        ("muon", (), 0.05, 0.8),
        ("indexer", (), 0.02, 0.8),
    ]
    names = {id(parameter): name for name, parameter in transformer.named_parameters()}
    ends = [{names[id(p)].split(".indexer.")[1] for p in group["params"]} for group in groups]
    assert ends[:2] == [{"wq_b.weight"}, {"wk.weight"}]
    assert ends[2] == {"k_norm.weight", "k_norm.bias", "weights_proj.weight"}


def test_a_warm_up_teaches_the_indexer() -> None:
    settings = OptimizerSettings(muon_lr=0.05, adamw_lr=0.02, momentum=0.8)
    trainer = Trainer(tiny.transformer(), settings, train="indexer")
    losses = [trainer.step(batch_loss(batch(step), "warmup"))["loss"] for step in range(30)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_backbone_leaves_the_indexer_alone() -> None:
    transformer = tiny.transformer()
    before = {name: value.clone() for name, value in transformer.named_parameters()}
    Trainer(transformer, OptimizerSettings(), train="backbone").step(batch_loss(batch(), "sparse"))
    moved = {name for name, value in transformer.named_parameters() if not torch.equal(value, before[name])}
    assert moved
    assert not any(".indexer." in name for name in moved)


def test_a_loss_that_is_not_finite_stops_before_the_weights_change() -> None:
    transformer = tiny.transformer()
    trainer = Trainer(transformer, OptimizerSettings())
    before = [value.clone() for value in transformer.parameters()]
    with pytest.raises(DivergenceError, match="loss is nan"):
        trainer.step(lambda t: (t.lm_head.weight.sum() * float("nan"), {}))
    assert all(torch.equal(a, b) for a, b in zip(before, transformer.parameters(), strict=True))


def test_the_rate_is_the_peak_times_the_factor() -> None:
    trainer = Trainer(tiny.transformer(), OptimizerSettings(muon_lr=0.02, adamw_lr=0.004))
    trainer.set_lr(0.5)
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {0.01, 0.002}


def test_the_router_bias_follows_the_load() -> None:
    transformer = tiny.transformer()
    Trainer(transformer, OptimizerSettings()).step(batch_loss(batch(), "dense"))
    biases = [value for name, value in transformer.named_buffers() if name.endswith("e_score_correction_bias")]
    assert any(bool((bias != 0).any()) for bias in biases)
