"""The comparison with transformers, at sizes where speed means nothing."""

import json
from pathlib import Path

import pytest
import torch

from model import ModelConfig
from tasks.benchmarks import model_speed
from tasks.benchmarks.model_speed import CASES, SHAPE, Case, DisagreementError

pytest.importorskip("transformers")
TINY = ModelConfig(
    vocab_size=61, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=2,
    num_attention_heads=2, q_lora_rank=24, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8,
    n_routed_experts=4, index_n_heads=3, index_head_dim=8, index_topk=8, max_position_embeddings=64,
    num_nextn_predict_layers=0,
)  # fmt: skip


def test_the_shape_is_the_one_of_the_published_figures() -> None:
    from model import Transformer

    with torch.device("meta"):
        size = sum(p.numel() for p in Transformer(SHAPE).parameters())
    assert size / 1e6 == pytest.approx(6.5, rel=0.05)
    assert set(CASES) == {"train_8x256", "train_2x1024", "train_1x4096", "decode_32"}


def test_the_metrics_hold_every_case_and_what_was_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_speed, "SHAPE", TINY)
    monkeypatch.setattr(model_speed, "CASES", {"decode": Case(2, 5, 4), "train": Case(2, 16)})
    out, threads = tmp_path / "metrics" / "bench_model.json", torch.get_num_threads()
    try:
        assert model_speed.main(["--repeats", "2", "--threads", "1", "--out", str(out)]) == 0
    finally:
        torch.set_num_threads(threads)
    found = json.loads(out.read_text())
    for name in ("decode", "train"):
        assert found[name]["ratio"] == rounded(found[name]["ours"] / found[name]["transformers"])
        assert found[name]["ratio_spread"][0] <= found[name]["ratio"] * 1.01 + 0.001
        assert len(found[name]["seconds"]["ours"]) == 2
    trained = found["train"]
    best = max(trained["transformers"], trained["transformers_bf16"])
    assert trained["ratio_bf16"] == rounded(trained["ours_bf16"] / best)
    assert trained["gain_bf16"] == rounded(trained["ours_bf16"] / trained["ours"])
    assert "ours_bf16" not in found["decode"]
    assert found["agreement"]["relative_error"] <= 1e-5
    assert found["setting"]["threads"] == 1


def rounded(ratio: float) -> object:
    """Ratios keep three decimals, a large share of the small one that an interrupted turn leaves."""
    return pytest.approx(ratio, rel=0.01, abs=0.001)


def test_both_train_the_same_parameters_on_the_same_loss() -> None:
    from model import Transformer

    ours = Transformer(TINY)
    ours.init_weights(0)
    theirs = model_speed.their_copy(ours)
    works = model_speed.training_works(ours, theirs, Case(2, TINY.index_topk))
    for name in ("ours", "transformers"):
        works[name]()
    moved = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert torch.allclose(parameter, moved[name], atol=2e-5), name  # a fifth of Adam's first step


def test_a_step_in_bfloat16_is_another_one_and_close() -> None:
    from model import Transformer

    def stepped(name: str) -> dict[str, torch.Tensor]:
        network = Transformer(TINY)
        network.init_weights(1)  # with seed 0 rounding sends a token to another expert
        model_speed.training_works(network, model_speed.their_copy(network), Case(2, TINY.index_topk))[name]()
        return {key: p.grad for key, p in network.named_parameters() if p.grad is not None}

    plain, rounded = stepped("ours"), stepped("ours_bf16")
    errors = [float((rounded[key] - plain[key]).norm() / plain[key].norm()) for key in plain]
    assert 1e-4 < sum(errors) / len(errors) < 0.02


def test_networks_that_differ_are_not_compared() -> None:
    from model import Transformer

    ours = Transformer(TINY)
    ours.init_weights(0)
    theirs = model_speed.their_copy(ours)
    with torch.no_grad():
        ours.model.norm.weight[0] += 1.0
    with pytest.raises(DisagreementError, match="cannot be compared"):
        model_speed.agreement(ours, theirs, 16)
