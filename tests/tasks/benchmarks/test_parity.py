"""The held-out loss of a checkpoint here and in transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model import Transformer
from tasks.benchmarks import parity
from tests.model.shapes import small_transformer, tokens

pytest.importorskip("transformers")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small_transformer(0, index_n_heads=16).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def text(path: Path, split: str) -> np.ndarray:
    return tokens(1, 400)[0].numpy()


def test_both_losses_are_the_same(folder: Path) -> None:
    losses = parity.compare(folder, tokens(5, 30))
    assert losses.difference <= parity.LIMIT
    assert losses.ours == pytest.approx(np.log(61), rel=0.2)


def test_the_command_prints_both_losses(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parity, "read_split", text)
    assert parity.main([str(folder), "--length", "32", "--windows", "6"]) == 0
    shown = capsys.readouterr().out
    assert "192 held-out tokens in 6 windows of 32" in shown
    assert shown.count("nats a token") == 2


def test_another_model_is_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "read_split", text)
    other = Transformer.from_pretrained(folder)
    with torch.no_grad():
        other.lm_head.weight *= 1.1
    monkeypatch.setattr(parity.Transformer, "from_pretrained", lambda folder: other)
    assert parity.main([str(folder), "--length", "32"]) == 1


def test_a_missing_checkpoint_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parity, "read_split", text)
    assert parity.main([str(tmp_path / "none"), "--length", "32"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
