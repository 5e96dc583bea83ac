"""The modes of DSA: who learns from what, which keys are seen."""

import pytest
import torch

from model import Muon, Transformer, parameter_groups
from tests.model.shapes import small_transformer, tokens


def gradients(transformer: Transformer, loss: torch.Tensor) -> dict[str, torch.Tensor | None]:
    transformer.zero_grad(set_to_none=True)
    loss.backward()
    return {name: parameter.grad for name, parameter in transformer.named_parameters()}


def is_zero(gradient: torch.Tensor | None) -> bool:
    return gradient is None or bool((gradient == 0).all())


def test_the_language_model_loss_gives_the_indexer_exactly_no_gradient() -> None:
    transformer, ids = small_transformer(), tokens(2, 20)
    losses = transformer.loss(ids, torch.ones(2, 20), mode="sparse")
    found = gradients(transformer, losses.lm + losses.mtp)
    assert all(is_zero(g) for name, g in found.items() if ".indexer." in name)
    assert not any(is_zero(g) for name, g in found.items() if name.endswith("o_proj.weight"))


@pytest.mark.parametrize("mode", ["sparse", "warmup"])
def test_the_indexer_loss_gives_the_backbone_exactly_no_gradient(mode: str) -> None:
    transformer, ids = small_transformer(), tokens(2, 20)
    found = gradients(transformer, transformer.loss(ids, torch.ones(2, 20), mode=mode).indexer)
    assert all(is_zero(g) for name, g in found.items() if ".indexer." not in name)
    assert not any(is_zero(g) for name, g in found.items() if name.endswith(("wq_b.weight", "wk.weight")))


def test_a_shared_layer_teaches_the_indexer_it_borrows() -> None:
    """With two layers on one indexer the loss is the mean of two divergences, not the first layer's alone."""
    shared = small_transformer(indexer_types=("full", "shared", "shared"), num_nextn_predict_layers=0)
    ids = tokens(2, 20)
    out = shared(ids, mode="sparse")
    assert len([n for n, _ in shared.named_parameters() if n.endswith("wk.weight")]) == 1
    found = gradients(shared, out.indexer_loss)
    alone = small_transformer(indexer_types=("full", "shared", "shared"), num_nextn_predict_layers=0)
    alone.load_state_dict(shared.state_dict())
    context = alone._context(ids, None, "sparse")
    first = alone.model.layers[0](alone.model.embed_tokens(ids), context, None).indexer_loss
    name = "model.layers.0.self_attn.indexer.wk.weight"
    expected = gradients(alone, first)[name]
    assert expected is not None
    assert found[name] is not None
    assert not torch.allclose(found[name], expected / 3)


def test_warm_up_leaves_the_backbone_bit_identical() -> None:
    transformer, ids = small_transformer(), tokens(2, 20)
    before = {name: value.clone() for name, value in transformer.state_dict().items()}
    optimizer = Muon(parameter_groups(transformer, 0.02, 1e-2, weight_decay=0.1))
    first = None
    for _ in range(10):
        loss = transformer.loss(ids, torch.ones(2, 20), mode="warmup").total
        first = loss.item() if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < first
    for name, value in transformer.state_dict().items():
        assert torch.equal(value, before[name]) == (".indexer." not in name), name


def test_up_to_topk_tokens_sparse_is_dense_bit_for_bit() -> None:
    transformer, ids = small_transformer(index_topk=16), tokens(3, 16)
    assert torch.equal(transformer(ids, mode="sparse").logits, transformer(ids, mode="dense").logits)


def test_queries_before_topk_attend_densely_in_a_longer_sequence() -> None:
    transformer, ids = small_transformer(index_topk=16), tokens(3, 40)
    sparse, dense = transformer(ids, mode="sparse").logits, transformer(ids, mode="dense").logits
    assert torch.allclose(sparse[:, :16], dense[:, :16], atol=1e-5)
    assert not torch.allclose(sparse[:, 16:], dense[:, 16:], atol=1e-3)


@pytest.mark.parametrize("mode", ["dense", "sparse"])
def test_a_future_token_changes_nothing_before_it(mode: str) -> None:
    transformer, ids = small_transformer(), tokens(2, 30)
    changed = ids.clone()
    changed[:, 20:] = (changed[:, 20:] + 7) % 61
    one, other = transformer(ids, mode=mode).logits, transformer(changed, mode=mode).logits
    assert torch.allclose(one[:, :20], other[:, :20], atol=1e-6)  # an expert's product of other rows rounds otherwise
    assert not torch.allclose(one[:, 20:], other[:, 20:], atol=1e-2)


@pytest.mark.parametrize("mode", ["dense", "sparse"])
def test_packed_documents_do_not_see_each_other(mode: str) -> None:
    transformer, ids = small_transformer(), tokens(1, 40)
    documents = torch.tensor([[0] * 11 + [1] * 17 + [0] * 12])
    packed = transformer.log_probs(ids, documents, mode)
    for start, end in ((0, 11), (11, 28), (28, 40)):
        alone = transformer.log_probs(ids[:, start:end], None, mode)
        assert torch.allclose(packed[:, start:end], alone, atol=1e-5)
        assert float(packed[0, start].detach()) == 0.0


def test_packed_losses_are_the_weighted_mean_over_the_documents() -> None:
    transformer, ids = small_transformer(), tokens(1, 40)
    documents = torch.tensor([[0] * 11 + [1] * 29])
    weights = torch.rand(1, 40, generator=torch.Generator().manual_seed(3))
    both = transformer.loss(ids, weights, documents)
    parts = [(transformer.loss(ids[:, a:b], weights[:, a:b]), weights[:, a:b]) for a, b in ((0, 11), (11, 40))]
    for name, ahead in (("lm", 1), ("mtp", 2)):
        totals = [getattr(losses, name) * w[:, ahead:].sum() for losses, w in parts]
        expected = sum(totals) / sum(w[:, ahead:].sum() for _, w in parts)
        assert torch.allclose(getattr(both, name), expected, atol=1e-5)


def test_a_frozen_indexer_is_not_taught() -> None:
    transformer, ids = small_transformer(), tokens(2, 20)
    for name, parameter in transformer.named_parameters():
        parameter.requires_grad_(".indexer." not in name)
    losses = transformer.loss(ids, torch.ones(2, 20), mode="sparse")
    assert float(losses.indexer) == 0.0
    losses.total.backward()


def test_fewer_teaching_rows_estimate_the_same_loss() -> None:
    full, ids = small_transformer(), tokens(8, 64)
    some = small_transformer(indexer_loss_rows=32)
    whole = float(full.loss(ids, torch.ones(8, 64), mode="sparse").indexer.detach())
    torch.manual_seed(0)
    part = float(some.loss(ids, torch.ones(8, 64), mode="sparse").indexer.detach())
    assert part == pytest.approx(whole, rel=0.1)


def test_a_row_of_short_documents_is_dense_bit_for_bit() -> None:
    transformer, ids = small_transformer(), tokens(2, 24)
    short = transformer.config.index_topk
    documents = torch.arange(24).expand(2, 24) // short
    sparse = transformer(ids, documents, mode="sparse").logits
    assert torch.equal(sparse, transformer(ids, documents).logits)


def test_the_mtp_layer_learns_from_the_first_rows_alone() -> None:
    some, ids = small_transformer(mtp_loss_rows=2), tokens(5, 20)
    weights, documents = torch.rand(5, 20), (torch.arange(100).view(5, 20) % 20 > 8).long()
    found = some.loss(ids, weights, documents)
    first = some.loss(ids[:2], weights[:2], documents[:2])
    assert torch.allclose(found.mtp, first.mtp)
    assert not torch.allclose(found.lm, first.lm)
    every = small_transformer().loss(ids, weights, documents)
    assert torch.allclose(found.lm, every.lm)
    assert not torch.allclose(found.mtp, every.mtp)
