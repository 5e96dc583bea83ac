"""Policies appear whole, and damage is noticed."""

import json

import pytest
import torch

from model import ModelConfig, Transformer
from tasks.rl import policy
from tasks.rl.errors import NotFinite, RunStopped
from tasks.rl.policy import PolicyError, PolicyStore

TINY = ModelConfig(
    vocab_size=64, hidden_size=16, intermediate_size=32, moe_intermediate_size=16, num_hidden_layers=2,
    num_attention_heads=2, q_lora_rank=8, kv_lora_rank=8, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8,
    n_routed_experts=4, index_n_heads=2, index_head_dim=8, index_topk=16, max_position_embeddings=64,
)  # fmt: skip


@pytest.fixture
def model():
    transformer = Transformer(TINY)
    transformer.init_weights(0)
    return transformer


def test_a_published_policy_comes_back_bit_for_bit(tmp_path, model):
    store = PolicyStore(tmp_path)
    learner = {"a|step": torch.tensor(3.0), "a|exp_avg": torch.randn(3, 4)}
    store.publish(model, 0, learner, {"reward": 0.5})
    read = store.load(0).state_dict()
    assert all(torch.equal(value, read[name]) for name, value in model.state_dict().items())
    assert torch.equal(store.load_learner(0)["a|exp_avg"], learner["a|exp_avg"])
    assert store.metrics(0) == {"reward": 0.5}


def test_only_the_newest_are_kept(tmp_path, model):
    store = PolicyStore(tmp_path, keep=2)
    for version in range(4):
        store.publish(model, version)
    assert store.versions() == [2, 3]
    assert store.latest() == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000002", "000003"]


def test_a_number_is_used_once(tmp_path, model):
    store = PolicyStore(tmp_path)
    store.publish(model, 0)
    with pytest.raises(PolicyError, match="already published"):
        store.publish(model, 0)


def test_a_half_written_policy_is_never_seen_and_is_swept(tmp_path, model):
    store = PolicyStore(tmp_path)
    store.publish(model, 0)
    draft = tmp_path / ".draft-000001"
    draft.mkdir()
    (draft / "model.safetensors").write_bytes(b"half")
    assert store.latest() == 0
    store.publish(model, 1)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("damage", ["truncate", "alter", "remove"])
@pytest.mark.parametrize("name", ["model.safetensors", "learner.safetensors", "config.json"])
def test_damage_names_the_file(tmp_path, model, damage, name):
    store = PolicyStore(tmp_path)
    path = store.publish(model, 0, {"a|step": torch.tensor(3.0)}) / name
    content = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(content[:-3] if damage == "truncate" else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(PolicyError, match=name):
        store.load(0)


def test_a_broken_manifest_is_named(tmp_path, model):
    store = PolicyStore(tmp_path)
    (store.publish(model, 0) / "manifest.json").write_text('{"files": ')
    with pytest.raises(PolicyError, match=r"manifest\.json"):
        store.load(0)


def test_a_missing_policy_is_named(tmp_path, model):
    store = PolicyStore(tmp_path)
    with pytest.raises(PolicyError, match="no published policy"):
        store.latest()
    store.publish(model, 0)
    with pytest.raises(PolicyError, match="000007"):
        store.load(7)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nothing_that_is_not_finite_is_published(tmp_path, model, value):
    store = PolicyStore(tmp_path)
    store.publish(model, 0)
    with pytest.raises(NotFinite, match="was not published: 1 of its tensors"):
        store.publish(model, 1, {"a|exp_avg": torch.tensor([1.0, value])})
    with torch.no_grad():
        next(model.parameters()).view(-1)[3] = value
    with pytest.raises(NotFinite, match="was not published"):
        store.publish(model, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["000000"]


def test_a_policy_that_is_not_finite_is_not_loaded(tmp_path, model, monkeypatch):
    store = PolicyStore(tmp_path)
    with torch.no_grad():
        next(model.parameters()).view(-1)[3] = float("nan")
    monkeypatch.setattr(policy, "not_finite", lambda tensors: [])
    store.publish(model, 0)
    monkeypatch.undo()
    with pytest.raises(RunStopped):
        store.load(0)


def test_metrics_that_are_no_numbers_are_not_published(tmp_path, model):
    with pytest.raises(ValueError, match="not JSON compliant"):
        PolicyStore(tmp_path).publish(model, 0, None, {"gradient_norm": float("nan")})
    assert PolicyStore(tmp_path).versions() == []


def test_a_policy_discarded_while_it_is_read_gives_way_to_the_newest(tmp_path, model, monkeypatch):
    store = PolicyStore(tmp_path, keep=1)
    store.publish(model, 0)
    newest = store.latest

    def overtaken():
        version = newest()
        if version < 2:
            store.publish(model, version + 1)  # the learner is faster than the reader, and discards what it reads
        return version

    monkeypatch.setattr(store, "latest", overtaken)
    version, loaded = store.load_latest()
    assert version == 2
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


def test_a_damaged_newest_policy_is_not_read_for_ever(tmp_path, model):
    store = PolicyStore(tmp_path)
    (store.publish(model, 0) / "config.json").unlink()
    with pytest.raises(PolicyError, match=r"config\.json"):
        store.load_latest()


def test_the_manifest_holds_a_hash_of_every_file(tmp_path, model):
    folder = PolicyStore(tmp_path).publish(model, 0)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    assert set(files) == {path.name for path in folder.iterdir()} - {"manifest.json"}
