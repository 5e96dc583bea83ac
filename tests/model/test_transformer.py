"""Forward pass, losses and log-probabilities of the whole network."""

import pytest
import torch
import torch.nn.functional as F

from model import ModelConfigError
from tests.model.shapes import small_config, small_transformer, tokens


@pytest.mark.parametrize("mode", ["dense", "sparse"])
def test_log_probs_are_the_log_softmax_of_the_logits(mode: str) -> None:
    transformer, ids = small_transformer(), tokens(3, 25)
    logits = transformer(ids, mode=mode).logits
    expected = F.log_softmax(logits[:, :-1], -1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    found = transformer.log_probs(ids, None, mode)
    assert torch.allclose(found[:, 1:], expected, atol=1e-5)
    assert (found[:, 0] == 0).all()


def test_the_loss_is_the_weighted_mean_of_the_log_probs() -> None:
    transformer, ids = small_transformer(), tokens(3, 25)
    weights = torch.rand(3, 25)
    expected = -(transformer.log_probs(ids) * weights)[:, 1:].sum() / weights[:, 1:].sum()
    assert torch.allclose(transformer.loss(ids, weights).lm, expected, atol=1e-6)


def test_training_learns_a_repeated_batch_and_its_multi_token_prediction() -> None:
    from model import Muon, parameter_groups

    transformer, ids = small_transformer(), tokens(4, 24)
    optimizer = Muon(parameter_groups(transformer, 0.02, 1e-2))
    for _ in range(40):
        losses = transformer.loss(ids, torch.ones(4, 24), mode="sparse")
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    assert losses.lm.item() < 1.0
    assert losses.mtp.item() < 2.5


def test_the_same_seed_gives_the_same_weights() -> None:
    first, second, other = small_transformer(1), small_transformer(1), small_transformer(2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_router_bias_moves_towards_the_neglected_experts() -> None:
    transformer = small_transformer()
    load = torch.tensor([[9.0, 1.0, 1.0, 1.0], [3.0, 3.0, 3.0, 3.0], [0.0, 6.0, 6.0, 0.0]])
    transformer.update_router_bias(load)
    biases = [layer.mlp.gate.e_score_correction_bias for layer in transformer.model.layers[1:]]
    rate = transformer.config.router_bias_update_rate
    assert torch.allclose(biases[0], rate * torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    assert torch.equal(biases[1], torch.zeros(4))
    assert transformer.mtp is not None
    assert torch.allclose(transformer.mtp.mlp.gate.e_score_correction_bias, rate * torch.tensor([1.0, -1, -1, 1]))


def test_expert_load_counts_every_choice() -> None:
    transformer, ids = small_transformer(), tokens(3, 25)
    load = transformer.loss(ids, torch.ones(3, 25)).expert_load
    assert load.shape == (3, 4)
    assert (load.sum(1) == 3 * 25 * 2).all()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_experts_per_tok": 9}, "num_experts_per_tok"),
        ({"qk_rope_head_dim": 5}, "qk_rope_head_dim"),
        ({"index_head_dim": 2}, "index_head_dim"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"indexer_types": ("shared", "full", "full")}, "indexer type"),
        ({"mlp_layer_types": ("dense",)}, "mlp_layer_types"),
    ],
)
def test_an_impossible_configuration_is_refused_by_name(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ModelConfigError, match=named):
        small_config(**changes)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="no attention mode 'spares'"):
        small_transformer()(tokens(1, 4), mode="spares")


@pytest.mark.parametrize("mode", ["dense", "warmup", "sparse"])
def test_activation_checkpointing_changes_no_gradient(mode: str) -> None:
    ids, documents = tokens(2, 40), (torch.arange(40) > 17).long().expand(2, 40)
    types = ("full", "shared", "full")
    found = []
    for activation_checkpointing in (False, True):
        transformer = small_transformer(
            activation_checkpointing=activation_checkpointing, indexer_types=types, indexer_loss_rows=16
        )
        torch.manual_seed(0)
        losses = transformer.loss(ids, torch.ones(2, 40), documents, mode)
        losses.total.backward()
        found.append((losses.total.detach(), {n: p.grad for n, p in transformer.named_parameters()}))
    (plain, gradients), (again, checkpointed) = found
    assert torch.equal(plain, again)
    for name, gradient in gradients.items():
        other = checkpointed[name]
        assert (gradient is None) == (other is None), name
        assert gradient is None or torch.equal(gradient, other), name


def test_activation_checkpointing_keeps_less_for_backward() -> None:
    kept = []
    for activation_checkpointing in (False, True):
        transformer = small_transformer(activation_checkpointing=activation_checkpointing)
        sizes: list[int] = []

        def keep(x: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            transformer(tokens(2, 40), mode="sparse")
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 4
