"""Group z-scores, zero-variance groups and the repair of environment failures."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.rl.advantages import group_advantages, repaired

rewards = st.lists(st.one_of(st.none(), st.sampled_from([0.0, 0.5, 1.0])), min_size=2, max_size=12)


def test_two_of_four_by_hand():
    assert group_advantages([1.0, 0.0, 0.0, 1.0]) == [(0, 1.0), (1, -1.0), (2, -1.0), (3, 1.0)]


def test_one_of_four_by_hand():
    advantages = [advantage for _, advantage in group_advantages([1.0, 0.0, 0.0, 0.0])]
    assert advantages == pytest.approx([3**0.5, -(3**-0.5), -(3**-0.5), -(3**-0.5)])


def test_a_group_of_equal_rewards_teaches_nothing():
    assert group_advantages([1.0] * 8) is None
    assert group_advantages([0.0, None, 0.0, 0.0]) is None


def test_a_failed_place_is_filled_from_the_valid_samples():
    assert repaired([1.0, None, 0.0, None, 1.0]) == [0, 0, 2, 2, 4]


def test_half_valid_is_not_enough():
    assert repaired([1.0, None, 0.0, None]) is None


@given(rewards)
def test_repair_keeps_size_uses_valid_samples_only_and_never_treats_failure_as_zero(values):
    places = repaired(values)
    valid = [index for index, value in enumerate(values) if value is not None]
    assert (places is None) == (len(valid) * 2 <= len(values))
    if places is not None:
        assert len(places) == len(values)
        assert set(places) == set(valid)


@given(rewards)
def test_advantages_have_mean_zero_and_unit_deviation(values):
    advantages = group_advantages(values)
    if advantages is not None:
        numbers = [advantage for _, advantage in advantages]
        assert statistics.fmean(numbers) == pytest.approx(0.0, abs=1e-9)
        assert statistics.pstdev(numbers) == pytest.approx(1.0)
