from __future__ import annotations

from dataclasses import replace
from math import isclose

import pytest

from tasks.benchmarks.agentic import BenchmarkError, FamilyResult, Outcome, episode_specs, heldout_tasks, to_record

OUTCOME = Outcome("t0", "h0", "shell", "copy", 1, 0, 1.0, True, None, 2, 0, "stop", "none", (1, 2, 3), (0, 1, 1))


def outcomes(passes: list[list[bool]]) -> tuple[Outcome, ...]:
    return tuple(
        replace(OUTCOME, task_id=f"t{t}", task_hash=f"h{t}", sample=s, passed=passed, horizon=1 + t % 2)
        for t, row in enumerate(passes)
        for s, passed in enumerate(row)
    )


def test_scores_of_a_small_result() -> None:
    result = FamilyResult("shell", outcomes([[True, False], [False, False], [True, True], [False, True]]))
    assert isclose(result.pass_at_1.value, 0.5)
    assert isclose(result.pass_at(2).value, 0.75)
    assert result.pass_at_1.n == 8
    assert result.pass_at_1.clusters == 4
    assert {h: share.value for h, share in result.by_horizon().items()} == {1: 0.75, 2: 0.25}


def test_recovery_counts_only_episodes_in_which_a_command_failed() -> None:
    first, second, third = outcomes([[True], [True], [False]])
    stumbled = (first, replace(second, failed_commands=1), replace(third, failed_commands=2))
    assert isclose(FamilyResult("shell", stumbled).recovery_rate.value, 0.5)
    assert FamilyResult("shell", stumbled).recovery_rate.n == 2
    assert FamilyResult("shell", (first,)).recovery_rate.ci95 == (0.0, 1.0)


def test_environment_errors_stay_in_the_denominator_and_are_counted() -> None:
    first, second = outcomes([[True], [False]])
    result = FamilyResult("shell", (first, replace(second, error="no box")))
    assert isclose(result.pass_at_1.value, 0.5)
    assert result.environment_errors == 1


@pytest.mark.parametrize("family", ["shell", "chain", "repair"])
def test_heldout_tasks_are_distinct_and_repeatable(family: str) -> None:
    tasks = heldout_tasks(family, 20, "evaluation")
    assert len({task.content_hash for task in tasks}) == 20
    assert {task.split for task in tasks} == {"heldout"}
    assert heldout_tasks(family, 20, "evaluation") == tasks


def test_too_many_tasks_are_refused() -> None:
    with pytest.raises(BenchmarkError, match="needs a task or more"):
        heldout_tasks("shell", 0, "evaluation")


def test_sampling_seeds_depend_on_task_and_sample_only() -> None:
    tasks = heldout_tasks("shell", 3, "evaluation")
    specs = episode_specs(tasks, 4, 1.0)
    assert len({spec.seed for spec in specs}) == 12
    assert {spec.seed for spec in episode_specs(tasks[1:], 2, 1.0)} < {spec.seed for spec in specs}


def test_a_record_has_text_instead_of_tokens() -> None:
    record = to_record(OUTCOME, lambda ids: "-".join(map(str, ids)))
    assert record["text"] == "1-2-3"
    assert record["sampled_tokens"] == 2
    assert "token_ids" not in record
