"""Admission control and the choice of a batch."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tasks.rl.admission import ReadyGroup, admitted_groups, choose_batch, exhausted, staleness


def _group(number, rewards=(1.0, 0.0), first=5):
    return ReadyGroup(number, tuple(rewards), (first,) * len(rewards))


def test_synchronous_admission_is_one_batch_a_version():
    assert [admitted_groups(version, 0, 24, 60) for version in range(3)] == [24, 48, 72]


def test_the_run_never_plans_more_than_it_trains():
    assert admitted_groups(58, 4, 24, 60) == 60 * 24


def test_a_batch_waits_until_it_is_full():
    ready = [_group(0), _group(1)]
    assert choose_batch(ready, 5, 4, 3, 0, 6).claim is None
    assert choose_batch([*ready, _group(2)], 5, 4, 3, 0, 6).claim == (0, 1, 2)


def test_groups_that_teach_nothing_are_dropped_with_their_reason():
    ready = [_group(0, (1.0, 1.0)), _group(1, (None, 1.0)), _group(2, first=0), _group(3)]
    decision = choose_batch(ready, 5, 4, 2, 0, 6)
    assert decision.drop == {0: "zero_variance", 1: "environment", 2: "stale"}
    assert decision.claim is None


def test_one_old_sample_makes_its_group_stale():
    group = ReadyGroup(0, (1.0, 0.0, 1.0), (9, 4, 9))
    assert choose_batch([group], 9, 4, 1, 0, 6).drop == {0: "stale"}
    assert choose_batch([group], 8, 4, 1, 0, 6).claim == (0,)


def test_a_batch_closes_unfilled_when_little_is_left_to_learn_and_is_never_empty():
    ready = [_group(number, (1.0, 1.0)) for number in range(4)]
    assert choose_batch(ready, 5, 4, 2, 8, 6).claim is None
    assert choose_batch([*ready, _group(4)], 5, 4, 2, 8, 6).claim == (4,)
    assert choose_batch([*ready, _group(4)], 5, 4, 2, 6, 6).claim is None


@given(st.lists(st.sampled_from(["environment", "stale", "usable"]), max_size=60))
def test_failed_and_stale_groups_exhaust_nothing(kinds):
    made = {
        "environment": {"rewards": (None, 1.0)},
        "stale": {"first": 0},
        "usable": {},
    }
    ready = [_group(number, **made[kind]) for number, kind in enumerate(kinds)]
    decision = choose_batch(ready, 5, 4, 8, 0, 2)
    assert (decision.claim is None) == (kinds.count("usable") < 8)
    assert not exhausted(Counter(decision.drop.values()), 8, 2)


def test_a_group_in_which_nothing_was_sampled_trains_nothing():
    group = ReadyGroup(0, (1.0, 0.0), (-1, -1))
    assert choose_batch([group], 0, 4, 1, 0, 6).drop == {0: "no_tokens"}
    assert choose_batch([ReadyGroup(0, (1.0, 0.0), (-1, 9))], 9, 4, 1, 0, 6).claim == (0,)
    assert staleness(9, [-1, 8]) == 1


def test_a_step_gives_up_on_groups_that_teach_nothing_alone():
    assert exhausted({"zero_variance": 11, "no_tokens": 1, "environment": 99}, 2, 6)
    assert not exhausted({"zero_variance": 11, "environment": 99, "stale": 99}, 2, 6)


groups = st.lists(
    st.tuples(
        st.lists(st.sampled_from([None, 0.0, 1.0]), min_size=4, max_size=4),
        st.lists(st.integers(0, 9), min_size=4, max_size=4),
    ),
    max_size=12,
)


@given(groups, st.integers(0, 9), st.integers(0, 5), st.integers(1, 4))
def test_claimed_groups_are_never_older_than_tau(values, version, tau, size):
    ready = [
        ReadyGroup(index, tuple(rewards), tuple(min(v, version) for v in firsts))
        for index, (rewards, firsts) in enumerate(values)
    ]
    decision = choose_batch(ready, version, tau, size, 0, 6)
    claimed = [ready[index] for index in decision.claim or ()]
    assert len(claimed) <= size
    assert not set(decision.drop) & {group.id for group in claimed}
    for group in claimed:
        valid = [first for first, reward in zip(group.first_versions, group.rewards, strict=True) if reward is not None]
        assert staleness(version, valid) <= tau
