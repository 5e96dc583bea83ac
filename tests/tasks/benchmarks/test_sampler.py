"""The decode engine measured on a checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.benchmarks import parity, sampler
from tests.model.shapes import small_transformer, tokens


@pytest.mark.parametrize("drafts", [0, 2])
def test_the_engines_log_probs_are_the_trainers(drafts: int) -> None:
    torch.set_num_threads(1)
    found = sampler.measure(small_transformer(1, hidden_size=40), tokens(4, 20), 15, 1.0, drafts)
    assert found.fp32_largest <= sampler.BOUND
    assert found.fp32_over == 0
    assert found.fp32_largest < found.bf16_mean < found.bf16_largest
    assert 1.0 <= found.accept_length <= 1 + drafts


def text(path: Path, split: str) -> np.ndarray:
    return tokens(1, 400)[0].numpy()


def test_the_command_prints_a_line_a_number_of_drafts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parity, "read_split", text)
    small_transformer(1, hidden_size=40).save_pretrained(tmp_path / "model")
    arguments = [str(tmp_path / "model"), "--sequences", "2", "--prompt", "9", "--new", "5", "--drafts", "1"]
    assert sampler.main(arguments) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[2:]] == ["0", "1", "0", "1"]
    small_transformer(1, num_nextn_predict_layers=0).save_pretrained(tmp_path / "other")
    assert sampler.main([str(tmp_path / "other"), *arguments[1:]]) == 2
    assert "no MTP layer" in capsys.readouterr().err
