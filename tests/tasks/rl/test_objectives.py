"""Objectives against hand computations and their defining properties."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.rl.objectives import OBJECTIVES, ObjectiveSettings, UnknownObjective, objective_by_name

SETTINGS = ObjectiveSettings(0.2, 0.28, 2.0)
log_values = st.floats(-6.0, -0.01)
signed = st.floats(-3.0, 3.0).filter(lambda value: abs(value) > 1e-3)


def _gradient(name, current, rollout, proximal, advantage):
    log_probs = torch.tensor([current], dtype=torch.float64, requires_grad=True)
    rest = [torch.tensor([value], dtype=torch.float64) for value in (rollout, proximal, advantage)]
    result = OBJECTIVES[name](log_probs, *rest, SETTINGS)
    (gradient,) = torch.autograd.grad(result.loss.sum(), log_probs)
    return float(gradient), float(result.loss.detach()), float(result.masked)


@given(log_values, log_values, signed)
def test_glm5_gradient_is_minus_f_of_r_times_advantage(current, rollout, advantage):
    gradient, loss, masked = _gradient("glm5_agentic", current, rollout, -99.0, advantage)
    ratio = math.exp(current - rollout)
    weight = ratio if 0.8 < ratio < 1.28 else 0.0
    assert gradient == pytest.approx(-weight * advantage, abs=1e-9)
    assert loss == pytest.approx(-weight * advantage * current, abs=1e-9)
    assert masked == (0.0 if weight else 1.0)


@given(log_values, log_values, log_values, signed)
def test_decoupled_ppo_clips_around_the_proximal_policy(current, rollout, proximal, advantage):
    gradient, _, _ = _gradient("decoupled_ppo", current, rollout, proximal, advantage)
    ratio = math.exp(current - proximal)
    clipped = ratio > 1.28 if advantage > 0 else ratio < 0.8
    expected = 0.0 if clipped else -math.exp(proximal - rollout) * ratio * advantage
    assert gradient == pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(log_values, log_values, log_values, signed)
def test_icepop_gives_no_gradient_where_trainer_and_sampler_disagree(current, rollout, proximal, advantage):
    gradient, _, masked = _gradient("grpo_icepop", current, rollout, proximal, advantage)
    mismatch = math.exp(proximal - rollout)
    if not 0.5 <= mismatch <= 2.0:
        assert gradient == 0.0
        assert masked == 1.0
    ratio = math.exp(current - proximal)
    if 0.5 < mismatch < 2.0 and 0.8 < ratio < 1.28:
        assert gradient == pytest.approx(-mismatch * ratio * advantage, rel=1e-6)


extreme = st.one_of(st.floats(-(2.0**100), 0.0, width=32), st.floats(-300.0, 0.0, width=32))


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
@given(st.lists(st.tuples(extreme, extreme, extreme, signed), min_size=1, max_size=4))
def test_losses_and_gradients_are_finite_whatever_the_log_probs(name, tokens):
    columns = [torch.tensor(column, dtype=torch.float32) for column in zip(*tokens, strict=True)]
    log_probs = columns[0].requires_grad_()
    result = OBJECTIVES[name](log_probs, *columns[1:], SETTINGS)
    (gradient,) = torch.autograd.grad(result.loss.sum(), log_probs)
    assert bool(torch.isfinite(result.loss).all())
    assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_a_masked_token_that_the_policy_excludes_gives_no_nan(name):
    gradient, loss, _ = _gradient(name, -math.inf, -1.0, -1.0, 2.0)
    assert math.isfinite(gradient)
    assert math.isfinite(loss)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_on_policy_every_objective_is_the_policy_gradient(name):
    gradient, _, masked = _gradient(name, -1.5, -1.5, -1.5, 2.0)
    assert gradient == pytest.approx(-2.0)
    assert masked == 0.0


def test_clip_bounds_are_exclusive_where_glm5_masks():
    inside = _gradient("glm5_agentic", math.log(0.27), math.log(0.25), 0.0, 1.0)[0]
    outside = _gradient("glm5_agentic", math.log(0.33), math.log(0.25), 0.0, 1.0)[0]
    assert inside == pytest.approx(-1.08)
    assert outside == 0.0


def test_an_unknown_objective_is_named():
    with pytest.raises(UnknownObjective, match=r"'reinforce2'.*glm5_agentic"):
        objective_by_name("reinforce2")
