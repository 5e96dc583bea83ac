"""Training under autocast to bfloat16 on the CPU: close to fp32 where numbers are added, equal where they decide."""

from __future__ import annotations

import pytest
import torch

from model import Transformer
from model.attention import Attention
from model.moe import Router
from model.muon import parameter_groups
from tests.model.shapes import small_config, small_transformer, tokens

GRADIENT_ERROR = (
    0.02  # of all gradients together. 0.007 was measured; 0.03 where a token on the edge changes its expert
)


def gradient(network: Transformer, ids: torch.Tensor, mode: str, rounded: bool) -> dict[str, torch.Tensor]:
    network.zero_grad()
    torch.manual_seed(0)  # the rows that teach the indexer
    with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
        total = network.loss(ids, torch.ones(ids.shape), mode=mode).total
    total.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("mode", ["dense", "sparse"])
def test_gradients_are_close_to_those_of_fp32(mode: str) -> None:
    network = small_transformer()
    ids = tokens(4, 40 if mode == "dense" else 6)  # up to top-k keys there is nothing to select, so nothing to flip
    plain, rounded = (gradient(network, ids, mode, flag) for flag in (False, True))
    assert plain.keys() == rounded.keys()
    assert all(g.dtype == torch.float32 for g in rounded.values())
    difference = sum(float((rounded[n] - plain[n]).square().sum()) for n in plain) ** 0.5
    size = sum(float(g.square().sum()) for g in plain.values()) ** 0.5
    assert 0 < difference / size < GRADIENT_ERROR


def test_warm_up_teaches_the_indexer_alone() -> None:
    found = gradient(small_transformer(), tokens(2, 20), "warmup", rounded=True)
    assert found
    assert all(".indexer." in name for name in found)


def test_experts_are_chosen_as_in_fp32() -> None:
    config = small_config(n_routed_experts=16)
    router = Router(config)
    torch.nn.init.normal_(router.weight)
    x = torch.randn(512, config.hidden_size)
    plain = router(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = router(x)
    assert torch.equal(found[0], plain[0])
    assert torch.equal(found[1], plain[1])


def test_keys_are_selected_as_in_fp32() -> None:
    network = small_transformer()
    attention = network.model.layers[1].self_attn
    assert isinstance(attention, Attention)
    ids = tokens(2, 50)
    x, latent = torch.randn(2, 50, 32), torch.randn(2, 50, 24)
    context = network._context(ids, None, "sparse")
    plain = attention._top_keys(x, latent, context)
    with torch.autocast("cpu", torch.bfloat16):
        found = attention._top_keys(x, latent, context)
    assert plain is not None
    assert found is not None
    assert torch.equal(found, plain)


def test_the_indexer_learns_exactly() -> None:
    """Its inputs and teacher are given: the loss and its gradients are those of fp32, bit for bit."""
    network = small_transformer()
    indexer = network.model.layers[0].self_attn.indexer  # type: ignore[union-attr]
    x, latent = torch.randn(2, 9, 32), torch.randn(2, 9, 24)
    rope = network._context(tokens(2, 9), None, "dense").rope
    results = []
    for rounded in (False, True):
        indexer.zero_grad()  # type: ignore[union-attr, operator]
        with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
            scores = indexer(x, latent, rope, indexer.keys(x, rope))  # type: ignore[union-attr, operator, misc]
        scores.square().sum().backward()
        results.append([scores, *(p.grad.clone() for p in indexer.parameters())])  # type: ignore[union-attr, operator]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_activation_checkpointing_changes_nothing() -> None:
    ids = tokens(2, 20)
    plain = gradient(small_transformer(), ids, "dense", rounded=True)
    saved = gradient(small_transformer(activation_checkpointing=True), ids, "dense", rounded=True)
    assert all(torch.allclose(saved[name], plain[name], atol=1e-6) for name in plain)


def test_logits_and_losses_are_fp32() -> None:
    network, ids = small_transformer(), tokens(2, 20)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert network(ids).logits.dtype == torch.float32
        assert network.loss(ids, torch.ones(ids.shape), mode="sparse").total.dtype == torch.float32
        rounded = network.log_probs(ids)
    assert float((rounded - network.log_probs(ids)).detach().abs().max()) < 0.05


def test_names_and_groups_are_those_of_plain_linear_layers() -> None:
    network = small_transformer()
    names = set(network.state_dict())
    assert {"lm_head.weight", "model.layers.0.self_attn.o_proj.weight", "mtp.eh_proj.weight"} <= names
    assert not any(name.endswith("proj.bias") for name in names)
    groups = {group["name"] for group in parameter_groups(network, muon_lr=0.1, adamw_lr=0.1)}
    assert groups == {"muon", "adamw", "indexer"}
