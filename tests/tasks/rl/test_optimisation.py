"""The learner's step: gradients, freezing, padding, resume."""

from dataclasses import replace

import torch

from model import ModelConfig, Transformer
from tasks.config import load_config
from tasks.rl.batch import Example, micro_batches, split_examples
from tasks.rl.optimisation import build_optimizer, optimizer_tensors, restore_optimizer, train_step
from tasks.rl.trajectory import Trajectory

SETTINGS = replace(load_config().reinforce, optimizer_steps=2, micro_batch_tokens=128, learning_rate=1e-2)


def _model(seed=0):
    config = ModelConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, q_lora_rank=8, kv_lora_rank=8, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8,
        n_routed_experts=4, index_n_heads=2, index_head_dim=8, index_topk=16, max_position_embeddings=64,
    )  # fmt: skip
    model = Transformer(config)
    model.init_weights(seed)
    return model


def _sampled(model, ids, mask, version=0):
    """A trajectory with the log-probabilities that the model itself gives."""
    with torch.no_grad():
        log_probs = model.log_probs(torch.tensor([ids]), mode="sparse")[0].tolist()
    versions = [version if bit else -1 for bit in mask]
    return Trajectory("t", "shell", 1, "train", 0, 0, ids, mask, log_probs, versions)


def _examples(model):
    good = _sampled(model, [2, 10, 11, 3, 20, 4], [0, 0, 0, 0, 1, 1])
    bad = _sampled(model, [2, 10, 11, 3, 21, 22, 23, 4], [0, 0, 0, 0, 1, 1, 1, 1])
    return [Example(good, 1.0), Example(bad, -1.0)] * 3


def test_a_step_makes_rewarded_tokens_likelier_and_others_rarer():
    torch.manual_seed(0)
    model = _model()
    examples = _examples(model)
    before = [example.trajectory.log_probs for example in examples[:2]]
    statistics = train_step(model, build_optimizer(model, SETTINGS), examples, SETTINGS, 0, 1)
    after = [
        _sampled(model, example.trajectory.token_ids, example.trajectory.loss_mask).log_probs
        for example in examples[:2]
    ]
    assert sum(after[0][4:]) > sum(before[0][4:])
    assert sum(after[1][4:]) < sum(before[1][4:])
    assert statistics["mismatch"] < 1e-5
    assert statistics["tokens"] == 18


def test_indexer_router_bias_and_mtp_stay_as_they_were():
    model = _model()
    frozen = {name: value.clone() for name, value in model.state_dict().items()}
    train_step(model, build_optimizer(model, SETTINGS), _examples(model), SETTINGS, 0, 1)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, frozen[name])}
    assert changed
    assert not [name for name in changed if "indexer" in name or "bias" in name or name.startswith("mtp")]


def test_padding_and_micro_batches_do_not_change_the_step():
    results = []
    for tokens in (32, 4096):
        model = _model()
        settings = replace(SETTINGS, optimizer_steps=1, micro_batch_tokens=tokens)
        train_step(model, build_optimizer(model, settings), _examples(model), settings, 0, 1)
        results.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-3, atol=1e-4)


def test_a_restored_learner_takes_the_same_step():
    model = _model()
    optimizer = build_optimizer(model, SETTINGS)
    examples = _examples(model)
    train_step(model, optimizer, examples, SETTINGS, 0, 1)
    copy = _model()
    copy.load_state_dict(model.state_dict())
    second = build_optimizer(copy, SETTINGS)
    restore_optimizer(copy, second, optimizer_tensors(model, optimizer))
    train_step(model, optimizer, examples, SETTINGS, 1, 2)
    train_step(copy, second, examples, SETTINGS, 1, 2)
    for name, value in model.state_dict().items():
        assert torch.equal(value, copy.state_dict()[name]), name


def test_the_optimizer_can_forget():
    model = _model()
    settings = replace(SETTINGS, reset_optimizer=True)
    optimizer = build_optimizer(model, settings)
    train_step(model, optimizer, _examples(model), settings, 0, 1)
    assert not optimizer_tensors(model, optimizer)


def test_a_stopped_step_changes_nothing():
    model = _model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stopped = train_step(model, build_optimizer(model, SETTINGS), _examples(model), SETTINGS, 0, 1, lambda: False)
    assert stopped is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_every_example_is_in_one_part_and_one_row():
    examples = _examples(_model())
    parts = split_examples(examples, 2, seed=5)
    assert sorted(map(id, examples)) == sorted(id(example) for part in parts for example in part)
    rows = [batch.token_ids.shape[0] for batch in micro_batches(examples, 64)]
    assert sum(rows) == len(examples)
    assert max(rows) == 2
