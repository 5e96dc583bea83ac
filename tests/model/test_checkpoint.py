"""Checkpoints: exact, atomic, and refused when damaged."""

import json
from pathlib import Path

import pytest
import torch

from model import CheckpointError, Transformer
from tests.model.shapes import small_transformer, tokens


def saved(folder: Path) -> Transformer:
    transformer = small_transformer()
    transformer.save_pretrained(folder, {"tokenizer.json": b"{}", "longhaul.json": b'{"stage": "pretrain"}'})
    return transformer


def test_a_round_trip_is_exact(tmp_path: Path) -> None:
    transformer = saved(tmp_path / "model")
    transformer.update_router_bias(torch.arange(12.0).view(3, 4))
    digest = transformer.save_pretrained(tmp_path / "model", {"longhaul.json": b'{"stage": "midtrain"}'})
    again = Transformer.from_pretrained(tmp_path / "model")
    assert again.config == transformer.config
    state = transformer.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())
    record = json.loads((tmp_path / "model/longhaul.json").read_text())
    assert record == {"stage": "midtrain", "model_sha256": digest}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors .*truncated"):
        Transformer.from_pretrained(tmp_path)
    (tmp_path / "longhaul.json").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated"):
        Transformer.from_pretrained(tmp_path)


def test_one_altered_bit_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    path = tmp_path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="sha256"):
        Transformer.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    saved(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        Transformer.from_pretrained(tmp_path)


def test_a_config_that_asks_for_another_shape_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"hidden_size": 64}))
    with pytest.raises(CheckpointError, match="has shape"):
        Transformer.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(values | {"num_hidden_layers": 4, "mlp_layer_types": None,
                                                               "indexer_types": None}))  # fmt: skip
    with pytest.raises(CheckpointError, match="lacks the tensor"):
        Transformer.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(values | {"n_group": 8}))
    with pytest.raises(CheckpointError, match="n_group"):
        Transformer.from_pretrained(tmp_path)


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved(tmp_path / "model")

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("model.checkpoint.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        small_transformer(5).save_pretrained(tmp_path / "model")
    again = Transformer.from_pretrained(tmp_path / "model")
    ids = tokens(1, 9)
    assert torch.equal(again(ids).logits, before(ids).logits)
