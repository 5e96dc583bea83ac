"""The evidence page: what is pooled, paired and timed."""

from pathlib import Path
from typing import Any

import pytest

from tasks.benchmarks import evidence
from tasks.benchmarks.arms import agent_step_seconds


def _scores(rl: list[int], start: list[int]) -> dict[int, dict[str, Any]]:
    def of(solved: list[int]) -> dict[str, Any]:
        return {"shell": {"solved": solved, "solved_greedy": solved, "pass_at_1": {"value": sum(solved) / len(solved)}}}

    models = {model: of(start) for model in evidence.TITLES} | {"rl": of(rl)}
    return {11: models, 12: models}


def test_pooled_share_counts_every_episode_and_draws_tasks() -> None:
    found = evidence.pooled(_scores([1, 0, 1, 1], [0, 0, 0, 1]), "rl", "shell", "solved")
    assert (found.value, found.n, found.clusters) == (0.75, 8, 4)


def test_nobody_solved_is_not_shown_as_certain() -> None:
    found = evidence.pooled(_scores([0, 0, 0, 0], [0, 0, 0, 0]), "rl", "shell", "solved")
    assert found.value == 0.0
    assert found.ci95[1] > 0.3


def test_difference_is_paired_by_task() -> None:
    found = evidence.difference(_scores([1, 0, 1, 1], [0, 0, 1, 1]), "rl", "midtrained", "shell", "solved")
    assert found.value == pytest.approx(0.25)


def test_page_holds_every_arm_and_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "DOCS", tmp_path)
    scores = _scores([1, 0, 1, 1], [0, 0, 0, 1])
    evidence.write(
        scores, {seed: {"rl": 200.0, "random": 190.0, "finetuned": 199.0} for seed in scores}, ["shell"], 1.0
    )
    page = (tmp_path / "evidence.md").read_text()
    assert all(title in page for title in evidence.TITLES.values())
    assert all(title in page for _, _, title in evidence.COMPARISONS)
    assert (tmp_path / "evidence.png").stat().st_size > 5_000


def test_step_seconds_come_from_the_agent_phase_alone(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_text("step 1/9 phase dense grad 1 tok/s 10 eta 1s\nstep 2/9 phase agent grad 1 tok/s 4096 eta 1s\n")
    assert agent_step_seconds(log) == pytest.approx(0.5)
