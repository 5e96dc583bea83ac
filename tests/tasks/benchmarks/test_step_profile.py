"""The profile of a training step, at sizes where speed means nothing."""

from pathlib import Path

import pytest
import torch

from tasks.benchmarks import step_profile
from tasks.benchmarks.model_speed import Case
from tasks.benchmarks.step_profile import OTHER, Profile, shares
from tests.tasks.benchmarks.test_model_speed import TINY


def test_shares_add_up_and_know_each_group() -> None:
    found = shares({"aten::mm": 6.0, "ListedAttentionBackward": 2.0, "aten::silu": 1.0, "aten::copy_": 1.0})
    assert sum(found.values()) == pytest.approx(1.0)
    assert found["matrix products"] == pytest.approx(0.6)
    assert found["attention over lists"] == pytest.approx(0.2)
    assert found[OTHER] == pytest.approx(0.1)


def test_the_floor_is_the_products_at_the_best_rate() -> None:
    step = Profile("train_8x256", "bfloat16", seconds=2.0, flops=600, shares={})
    assert step.floor({"float32": 100.0, "bfloat16": 300.0}) == 2.0


def test_the_products_of_a_step_are_counted() -> None:
    found = step_profile.profiles(TINY, {"train": Case(2, 16)})
    assert [p.dtype for p in found] == ["float32", "bfloat16"]
    head = 3 * 2 * 32 * TINY.hidden_size * TINY.vocab_size  # forward, both gradients; FLOPs of a product of 32 rows
    assert head < found[0].flops < 20 * head


def test_the_page_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_profile, "SHAPE", TINY)
    monkeypatch.setattr(step_profile, "CASES", {"train_2x16": Case(2, 16), "decode": Case(2, 5, 4)})
    monkeypatch.setattr(step_profile, "PRODUCT", (16, 16, 16))
    threads = torch.get_num_threads()
    try:
        assert step_profile.main(["--threads", "1", "--docs", str(tmp_path)]) == 0
    finally:
        torch.set_num_threads(threads)
    text = (tmp_path / "training-step.md").read_text()
    assert "| 2x16 | bfloat16 |" in text
    assert "not measured" in text
    assert (tmp_path / "training-step.png").stat().st_size > 1000
