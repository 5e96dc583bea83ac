"""Parity with transformers' `GlmMoeDsaForCausalLM`, both directions."""

import random
from pathlib import Path

import pytest
import torch

from model import ModelConfig, Transformer
from tests.model.shapes import small_config, tokens

transformers = pytest.importorskip("transformers")
TOLERANCE = 1e-5


def random_config(seed: int) -> ModelConfig:
    """Sixteen index heads make a tie of exact zeros at the edge of the selection practically impossible."""
    rng = random.Random(seed)
    types = rng.choice([("full",) * 3, ("full", "shared", "full"), ("full", "shared", "shared")])
    return small_config(
        hidden_size=rng.choice([32, 48]), num_attention_heads=rng.choice([1, 2, 4]),
        qk_nope_head_dim=rng.choice([6, 16]), qk_rope_head_dim=rng.choice([4, 8]), v_head_dim=rng.choice([4, 12, 24]),
        first_k_dense_replace=rng.choice([0, 1, 3]),
        num_experts_per_tok=rng.choice([1, 2, 3]), norm_topk_prob=rng.choice([True, False]), index_n_heads=16,
        index_head_dim=16, index_topk=rng.choice([5, 12, 64]), indexer_types=types, rope_theta=rng.choice([1e4, 1e6]),
        n_shared_experts=rng.choice([1, 2]), num_nextn_predict_layers=rng.choice([0, 1]),
    )  # fmt: skip


def assert_same(ours: Transformer, theirs: torch.nn.Module, ids: torch.Tensor) -> None:
    with torch.no_grad():
        found, expected = ours(ids, mode="sparse").logits, theirs(ids).logits
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()
    assert torch.equal(found.argmax(-1), expected.argmax(-1))


@pytest.mark.parametrize("seed", range(8))
def test_our_checkpoint_in_transformers(seed: int, tmp_path: Path) -> None:
    ours = Transformer(random_config(seed))
    ours.init_weights(seed)
    ours.update_router_bias(torch.randn(8, 4))
    ours.save_pretrained(tmp_path / "model")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert_same(ours, theirs, tokens(3, 40, seed))


@pytest.mark.parametrize("seed", range(8, 12))
def test_their_checkpoint_here(seed: int, tmp_path: Path) -> None:
    torch.manual_seed(seed)
    values = random_config(seed).to_hugging_face() | {"num_nextn_predict_layers": 0}
    theirs = transformers.GlmMoeDsaForCausalLM(transformers.GlmMoeDsaConfig(**values)).eval()
    theirs.save_pretrained(tmp_path / "model")
    ours = Transformer.from_pretrained(tmp_path / "model")
    assert ours.mtp is None
    assert_same(ours, theirs, tokens(3, 40, seed))


def test_greedy_continuation_is_the_same(tmp_path: Path) -> None:
    ours = Transformer(random_config(2))
    ours.init_weights(2)
    ours.save_pretrained(tmp_path / "model")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ids = tokens(1, 20, 2)
    expected = theirs.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
    for _ in range(12):
        ids = torch.cat([ids, ours(ids, mode="sparse").logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(ids, expected)
