"""The learner's step: gradients, freezing, padding, resume."""

import math
from dataclasses import replace

import pytest
import torch

from model import ModelConfig, Transformer
from tasks.config import load_config
from tasks.rl.batch import Example, micro_batches, split_examples
from tasks.rl.errors import NotFinite
from tasks.rl.finite import not_finite
from tasks.rl.objectives import OBJECTIVES
from tasks.rl.optimisation import (
    Skipped,
    build_optimizer,
    check_outputs,
    optimizer_tensors,
    restore_optimizer,
    train_step,
)
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


def _broken(example):
    """The example with an advantage that is no number: its loss and gradient are not finite."""
    return replace(example, advantage=float("nan"))


def _state(model, optimizer):
    return {**model.state_dict(), **optimizer_tensors(model, optimizer)}


def test_a_step_without_a_finite_gradient_is_not_applied_and_is_counted():
    model = _model()
    optimizer = build_optimizer(model, SETTINGS)
    train_step(model, optimizer, _examples(model), SETTINGS, 0, 1)
    before = {name: value.clone() for name, value in _state(model, optimizer).items()}
    broken = [_broken(example) for example in _examples(model)]
    statistics = train_step(model, optimizer, broken, SETTINGS, 1, 1)
    assert (statistics["applied_steps"], statistics["skipped_steps"]) == (0, 2)
    assert all(math.isfinite(value) for value in statistics.values())
    after = _state(model, optimizer)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_one_broken_part_leaves_the_other():
    model = _model()
    settings = replace(SETTINGS, optimizer_steps=6)
    examples = _examples(model)
    statistics = train_step(
        model, build_optimizer(model, settings), [_broken(examples[0]), *examples[1:]], settings, 0, 1
    )
    assert (statistics["applied_steps"], statistics["skipped_steps"]) == (5, 1)
    assert 0 < statistics["gradient_norm"] < math.inf
    assert not not_finite(model.state_dict())


def test_three_skipped_steps_in_a_row_stop_the_run_with_step_objective_and_rate():
    model = _model()
    optimizer, skipped = build_optimizer(model, SETTINGS), Skipped()
    broken = [_broken(example) for example in _examples(model)]
    train_step(model, optimizer, broken, SETTINGS, 4, 1, skipped=skipped)
    with pytest.raises(NotFinite, match=r"learner step 4 .*glm5_agentic, reinforce\.learning_rate 0\.01"):
        train_step(model, optimizer, broken, SETTINGS, 4, 1, skipped=skipped)


def test_an_applied_step_ends_the_row():
    model = _model()
    optimizer, skipped = build_optimizer(model, SETTINGS), Skipped()
    for _ in range(3):
        train_step(
            model, optimizer, [_broken(example) for example in _examples(model)], SETTINGS, 0, 1, skipped=skipped
        )
        train_step(model, optimizer, _examples(model), SETTINGS, 0, 1, skipped=skipped)
    assert skipped.in_a_row == 0


def test_a_batch_whose_every_token_is_masked_is_no_step():
    model = _model()
    optimizer = build_optimizer(model, SETTINGS)
    train_step(model, optimizer, _examples(model), SETTINGS, 0, 1)  # momentum would move the weights without a gradient
    before = {name: value.clone() for name, value in model.state_dict().items()}
    far = [
        replace(example, trajectory=replace(example.trajectory, log_probs=[-200.0] * len(example.trajectory.token_ids)))
        for example in _examples(model)
    ]
    assert train_step(model, optimizer, far, SETTINGS, 1, 1)["applied_steps"] == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_one_token_sampled_at_minus_200_nats_harms_no_weight(objective):
    model = _model()
    settings = replace(SETTINGS, objective=objective)
    examples = _examples(model)
    log_probs = list(examples[0].trajectory.log_probs)
    log_probs[4] = -200.0
    examples[0] = replace(examples[0], trajectory=replace(examples[0].trajectory, log_probs=log_probs))
    statistics = train_step(model, build_optimizer(model, settings), examples, settings, 0, 1)
    assert all(math.isfinite(value) for value in statistics.values())
    assert statistics["applied_steps"] == 2
    assert not not_finite(model.state_dict())


def test_weights_that_a_step_broke_are_noticed_at_once():
    model = _model()
    optimizer = build_optimizer(model, SETTINGS)
    optimizer.register_step_post_hook(lambda *_: model.lm_head.weight.data.view(-1)[5].fill_(math.inf))
    with pytest.raises(NotFinite, match=r"left 1 tensors that are not finite, lm_head\.weight among them"):
        train_step(model, optimizer, _examples(model), SETTINGS, 0, 1)


def test_finite_weights_with_outputs_that_are_not_are_noticed():
    model = _model()
    examples = _examples(model)
    check_outputs(model, examples, SETTINGS, 0)
    with torch.no_grad():
        model.lm_head.weight.fill_(3e38)
    with pytest.raises(NotFinite, match="log-probabilities which are not finite"):
        check_outputs(model, examples, SETTINGS, 0)


def test_every_example_is_in_one_part_and_one_row():
    examples = _examples(_model())
    parts = split_examples(examples, 2, seed=5)
    assert sorted(map(id, examples)) == sorted(id(example) for part in parts for example in part)
    rows = [batch.token_ids.shape[0] for batch in micro_batches(examples, 64)]
    assert sum(rows) == len(examples)
    assert max(rows) == 2
