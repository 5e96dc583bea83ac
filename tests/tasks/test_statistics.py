from __future__ import annotations

import itertools
from math import isclose

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.statistics import (
    StatisticsError,
    estimate,
    gate,
    paired_difference,
    pass_at_k,
    proportion,
    stratified_difference,
)

FLOATS = st.lists(st.floats(-10, 10), min_size=2, max_size=30)


@given(st.integers(1, 7), st.data())
def test_pass_at_k_equals_enumeration_of_all_draws(samples: int, data: st.DataObject) -> None:
    correct, k = data.draw(st.integers(0, samples)), data.draw(st.integers(1, samples))
    draws = list(itertools.combinations(range(samples), k))
    share = sum(any(i < correct for i in draw) for draw in draws) / len(draws)
    assert isclose(pass_at_k(samples, correct, k), share, abs_tol=1e-12)


@pytest.mark.parametrize(("samples", "correct", "k"), [(4, 5, 1), (4, 2, 5), (4, -1, 1), (4, 2, 0)])
def test_pass_at_k_refuses_impossible_counts(samples: int, correct: int, k: int) -> None:
    with pytest.raises(StatisticsError, match="not defined"):
        pass_at_k(samples, correct, k)


@settings(max_examples=25)
@given(FLOATS, st.sampled_from(["percentile", "bca"]))
def test_interval_is_seeded_inside_the_range_and_holds_the_mean(values: list[float], method: str) -> None:
    first = estimate(values, seed=3, method=method)  # type: ignore[arg-type]
    assert first == estimate(values, seed=3, method=method)  # type: ignore[arg-type]
    assert isclose(first.value, float(np.mean(values)), abs_tol=1e-9)
    assert min(values) - 1e-9 <= first.ci95[0] <= first.ci95[1] <= max(values) + 1e-9


def test_clusters_widen_the_interval_when_samples_of_a_task_agree() -> None:
    values = np.repeat(np.arange(40) % 2, 8)
    tasks = np.repeat(np.arange(40), 8).tolist()
    wide, narrow = estimate(values, tasks), estimate(values)
    assert (wide.ci95[1] - wide.ci95[0]) > 2 * (narrow.ci95[1] - narrow.ci95[0])
    assert wide.n == 320
    assert wide.clusters == 40


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_interval_covers_the_truth_about_as_often_as_it_says(method: str) -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        low, high = estimate(rng.random(100) < 0.3, seed=trial, method=method).ci95  # type: ignore[arg-type]
        hits += low <= 0.3 <= high
    assert 0.90 <= hits / 200 <= 0.99


def test_weights_give_the_ratio_of_sums() -> None:
    assert isclose(estimate([2.0, 4.0], weights=[3.0, 1.0]).value, 2.5)


@pytest.mark.parametrize("values", [[], [float("nan")], [1.0, float("inf")]])
def test_empty_and_not_finite_values_are_refused(values: list[float]) -> None:
    with pytest.raises(StatisticsError):
        estimate(values)


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(StatisticsError, match="equal lengths"):
        paired_difference([1.0], [1.0, 2.0])
    with pytest.raises(StatisticsError, match="cluster labels"):
        estimate([1.0, 2.0], clusters=["a"])


@settings(max_examples=25)
@given(FLOATS)
def test_a_model_against_itself_is_never_superior_and_always_non_inferior(values: list[float]) -> None:
    assert not gate(values, values).passed
    assert gate(values, values, margin=0.01).passed


def test_gate_false_alarm_rate_is_near_five_percent() -> None:
    rng = np.random.default_rng(1)
    alarms = [gate(rng.random(80), rng.random(80), seed=i).passed for i in range(300)]
    assert 0.01 <= np.mean(alarms) <= 0.10


def test_gate_finds_a_real_gain() -> None:
    rng = np.random.default_rng(2)
    before = (rng.random(200) < 0.3).astype(float)
    after = np.maximum(before, rng.random(200) < 0.2)
    assert gate(before, after).passed
    assert not gate(after, before, margin=0.01).passed


def test_strata_count_equally_whatever_their_size() -> None:
    before = np.zeros(100)
    after = np.concatenate([np.ones(90), np.zeros(10)])
    families = ["shell"] * 90 + ["repair"] * 10
    assert isclose(stratified_difference(before, after, None, families).value, 0.5)
    assert isclose(gate(before, after, strata=families).difference, 0.5)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_none_or_all_of_164_is_not_certainty(value: float) -> None:
    found = proportion([value] * 164)
    assert found.value == value
    assert isclose(abs(found.ci95[0] - found.ci95[1]), 0.02224, abs_tol=1e-4)
    assert proportion([0.0] * 80, clusters=[index // 8 for index in range(80)]).ci95[1] > 0.3


def test_a_constant_share_of_a_few_tasks_is_not_certainty() -> None:
    low, high = proportion([1.0, 0.0, 1.0, 0.0], clusters=["a", "a", "b", "b"]).ci95
    assert low < 0.1
    assert high > 0.9


@pytest.mark.parametrize(("before", "after", "expected"), [(1, 1, (-0.0222, 0.0222)), (0, 1, (1 - 2 * 0.0222, 1.0))])
def test_differences_that_are_all_alike_are_not_certainty(
    before: float, after: float, expected: tuple[float, float]
) -> None:
    tasks = [index // 2 for index in range(328)]
    found = paired_difference([before] * 328, [after] * 328, tasks)
    assert found.value == after - before
    assert found.ci95 == pytest.approx(expected, abs=1e-4)


def test_no_difference_in_n_tasks_admits_the_change_that_n_tasks_may_miss() -> None:
    high = paired_difference(np.zeros(60), np.zeros(60)).ci95[1]
    assert isclose((1 - high) ** 60, 0.025)


def test_a_stratum_without_any_difference_widens_the_mean() -> None:
    rng = np.random.default_rng(5)
    after = np.concatenate([rng.random(60) < 0.5, np.zeros(10)]).astype(float)
    families = ["shell"] * 60 + ["repair"] * 10
    found = stratified_difference(np.zeros(70), after, None, families)
    shell = paired_difference(np.zeros(60), after[:60])
    assert found.value - found.ci95[0] > 1.2 * (shell.value - shell.ci95[0]) / 2
    same = stratified_difference(np.zeros(70), np.zeros(70), None, families)
    assert same.ci95[0] == -same.ci95[1] < -0.1


def test_differences_that_vary_are_the_plain_bootstrap() -> None:
    before, after = [0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 0.0, 0.0]
    assert paired_difference(before, after, seed=4) == estimate(np.subtract(after, before), seed=4)


def test_a_mixed_share_is_the_plain_bootstrap() -> None:
    assert proportion([0.0, 1.0, 1.0, 0.0], seed=4) == estimate([0.0, 1.0, 1.0, 0.0], seed=4)
