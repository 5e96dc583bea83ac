"""The evidence page: what is pooled, paired and timed."""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.benchmarks import arms, evidence
from tasks.benchmarks.arms import EvidenceError, agent_step_seconds, finetuning_steps, run_program, settings_hash
from tasks.config import load_config


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
    evidence.write(scores, {seed: {"rl": 200.0, "random": 190.0, "finetuned": 199.0} for seed in scores}, ["shell"])
    page = (tmp_path / "evidence.md").read_text()
    assert all(title in page for title in evidence.TITLES.values())
    assert all(title in page for _, _, title in evidence.COMPARISONS)
    assert "| shell | RL over its start | +0.500 | +0.500 |" in page
    assert (tmp_path / "evidence.png").stat().st_size > 5_000


def test_step_seconds_come_from_the_agent_phase_alone(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_text("step 1/9 phase dense grad 1 tok/s 10 eta 1s\nstep 2/9 phase agent grad 1 tok/s 4096 eta 1s\n")
    assert agent_step_seconds(log) == pytest.approx(0.5)


def test_fine_tuning_gets_the_steps_that_the_budget_pays_for(tmp_path: Path) -> None:
    midtrain = load_config().midtrain
    tokens = midtrain.agent_batch * midtrain.agent_context
    (tmp_path / "run.log").write_text(f"phase agent grad 1 tok/s {tokens * 2} eta 1s\n")  # half a second a step
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics/midtrain.json").write_text(json.dumps({"seconds": 400.0}))
    (tmp_path / "metrics/midtrain.cpu").write_text("800.0")  # two cores: a step costs one processor second
    rest = 800 - midtrain.agent_steps
    assert finetuning_steps(tmp_path, rest + 123) == 123
    assert finetuning_steps(tmp_path, 0.0) == 1


def test_a_program_costs_what_it_and_its_own_programs_computed(tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(
        "import subprocess, sys, time\n"
        "end = time.process_time() + 0.3\n"
        "while time.process_time() < end: pass\n"
        "if sys.argv[1:]: subprocess.run([sys.executable, 'busy.py'], check=True)\n"
    )
    alone = run_program("alone", tmp_path, ["busy"], threads=1)
    assert alone >= 0.3
    assert run_program("with another", tmp_path, ["busy", "again"], threads=1) >= 0.6


def test_a_failed_program_is_named_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match=r"'broken' failed with status 1; its log is .*run\.log"):
        run_program("broken", tmp_path, ["no_such_module"], threads=1)


def test_other_settings_have_other_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arms, "fingerprint", str)
    first = settings_hash(load_config(), ["evaluate.samples=1"])
    assert settings_hash(load_config(), ["evaluate.samples=1"]) == first
    assert settings_hash(load_config(overrides=["seed=5"]), ["evaluate.samples=1"]) == first  # seeds are arms
    assert settings_hash(load_config(overrides=["midtrain.agent_steps=7"]), ["evaluate.samples=1"]) != first
    assert settings_hash(load_config(), ["evaluate.samples=2"]) != first
    monkeypatch.setattr(arms, "fingerprint", lambda place: f"other {place}")
    assert settings_hash(load_config(), ["evaluate.samples=1"]) != first
