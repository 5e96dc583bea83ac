"""Which task a group gets."""

from collections import Counter

from tasks.rl.selection import choose_task, random_reward, sample_seed

FAMILIES = {"shell": 0.7, "chain": 0.2, "repair": 0.1}


def test_the_choice_depends_on_run_seed_and_group_only():
    first = [choose_task(1, group, FAMILIES) for group in range(50)]
    again = [choose_task(1, group, dict(reversed(FAMILIES.items()))) for group in reversed(range(50))]
    assert first == again[::-1]
    assert first != [choose_task(2, group, FAMILIES) for group in range(50)]


def test_families_come_in_proportion():
    counts = Counter(choose_task(7, group, FAMILIES)[0] for group in range(2000))
    assert abs(counts["shell"] / 2000 - 0.7) < 0.05
    assert abs(counts["repair"] / 2000 - 0.1) < 0.03


def test_samples_of_a_group_have_their_own_seeds():
    assert len({sample_seed(1, group, sample) for group in range(50) for sample in range(8)}) == 400


def test_random_rewards_are_a_fair_coin():
    tosses = [random_reward(1, group, sample) for group in range(300) for sample in range(8)]
    assert set(tosses) == {0.0, 1.0}
    assert abs(sum(tosses) / len(tosses) - 0.5) < 0.04
