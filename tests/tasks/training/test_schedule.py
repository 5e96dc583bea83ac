from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.training.loop import ending
from tasks.training.schedule import WINDOW, locate, tokens_seen, total_steps, warmup_stable_decay
from tasks.training.settings import OptimizerSettings
from tests.tasks.training import tiny

shares = st.floats(0.0, 0.5)


@given(steps=st.integers(1, 1000), warmup=shares, decay=shares)
def test_factor_rises_stays_and_falls(steps: int, warmup: float, decay: float) -> None:
    factors = [warmup_stable_decay(step, steps, warmup, decay) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    peak = factors.index(max(factors))
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert peak <= warmup * steps + 1


def test_plateau_is_the_peak_and_the_end_is_near_zero() -> None:
    factors = [warmup_stable_decay(step, 100, 0.1, 0.2) for step in range(100)]
    assert factors[9:81] == [1.0] * 72
    assert factors[0] == pytest.approx(0.1)
    assert factors[99] == pytest.approx(0.05)


@given(step=st.integers(0, 17))
def test_every_step_lies_in_one_phase(step: int) -> None:
    phases = tiny.phases(6)
    index, inner = locate(phases, step)
    assert sum(phase.steps for phase in phases[:index]) + inner == step
    assert 0 <= inner < phases[index].steps


def test_a_phase_ends_when_its_last_losses_are_low() -> None:
    phase = replace(tiny.phases(40)[0], until=2.0)
    assert not phase.reached([1.0] * (WINDOW - 1))
    assert phase.reached([9.0] * 5 + [1.9] * WINDOW)
    assert not phase.reached([1.0] * WINDOW + [9.0] * 3)
    assert not replace(phase, until=0.0).reached([0.0] * WINDOW)


def test_a_phase_that_was_to_end_at_a_loss_says_whether_it_did() -> None:
    phase = replace(tiny.phases(40)[0], name="copy", steps=40, until=2.0)
    assert ending(phase, 15, [1.5] * WINDOW) == (
        "phase copy: the loss 2.0 was reached in 15 of 40 steps (mean of the last 10: 1.50); "
        "the count leaves out its other 25"
    )
    assert ending(phase, 40, [9.0] * WINDOW).endswith("NOT reached in 40 of 40 steps (mean of the last 10: 9.00)")


def test_tokens_of_a_phase_that_ended_early() -> None:
    plan = tiny.phases(20)
    curve = [(step, 0.0) for step in (*range(1, 11), *range(21, 61))]
    assert tokens_seen(plan, curve) == 50 * 2 * 32


def test_past_the_end() -> None:
    assert total_steps(tiny.phases(6)) == 18
    with pytest.raises(ValueError, match="past the last phase"):
        locate(tiny.phases(6), 18)


def test_muon_with_sharded_optimizer_is_refused() -> None:
    with pytest.raises(ValueError, match="needs zero_stage 0"):
        OptimizerSettings(name="muon", zero_stage=2)
    with pytest.raises(ValueError, match="zero_stage must be"):
        OptimizerSettings(name="adamw", zero_stage=4)
