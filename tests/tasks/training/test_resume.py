from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.checkpoint import CheckpointError
from tasks.training.engine import Trainer
from tasks.training.loop import Run, train
from tasks.training.resume import ResumeState
from tasks.training.schedule import WINDOW
from tasks.training.snapshot import MANIFEST
from tests.tasks.training import tiny

ROOT = Path(__file__).resolve().parents[3]


def run_program(*arguments: str, launcher: tuple[str, ...] = (), **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *launcher, "-m", "tests.tasks.training.program", *arguments]
    environment = {**os.environ, **variables}
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=250, check=False, env=environment
    )  # fmt: skip


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("unbroken")
    done = run_program(str(folder / "state"), str(folder / "out.json"))
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return result


@pytest.mark.parametrize("kill_at", [3, 9, 15])
def test_killed_run_resumes_with_the_same_curve_and_weights(
    tmp_path: Path, unbroken: dict[str, Any], kill_at: int
) -> None:
    state, out = str(tmp_path / "state"), tmp_path / "out.json"
    killed = run_program(state, str(out), str(kill_at))
    assert killed.returncode == -9
    assert not out.exists()
    resumed = run_program(state, str(out))
    assert resumed.returncode == 0, resumed.stderr
    if kill_at > 4:
        assert "goes on from the state saved after step" in resumed.stdout
    assert json.loads(out.read_text()) == unbroken


def test_a_killed_program_leaves_no_temporary_file(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    assert run_program(str(tmp_path / "state"), "out.json", "2", TMPDIR=str(temporary)).returncode == -9
    assert list(temporary.glob("longhaul*")) == []


def saved_state(tmp_path: Path) -> ResumeState:
    state = ResumeState("tiny", {}, tmp_path)
    run = Run("tiny", tiny.phases(3)[:1], {"corpus": tiny.corpus()}, 1, state, ignore, save_every=2)
    train(tiny.transformer(), run)
    return state


def test_a_phase_that_reached_its_loss_makes_way_for_the_next(tmp_path: Path) -> None:
    first, _, last = tiny.phases(30)
    plan = [replace(first, until=100.0), last]
    curve = train(
        tiny.transformer(), Run("tiny", plan, {"corpus": tiny.corpus()}, 1, ResumeState("tiny", {}, tmp_path), ignore)
    )
    assert [step for step, _ in curve] == [*range(1, WINDOW + 1), *range(31, 61)]


def ignore(step: int, metrics: object) -> None:
    pass


def newest_folder(state: ResumeState) -> Path:
    found = state.newest()
    assert found is not None
    return found[1]


@pytest.mark.parametrize("damage", ["cut", "flip", "remove", "manifest"])
def test_damaged_state_is_one_sentence_that_names_the_file(tmp_path: Path, damage: str) -> None:
    folder = newest_folder(saved_state(tmp_path))
    victim = next(path for path in sorted(folder.rglob("*.pt")))
    content = victim.read_bytes()
    if damage == "cut":
        victim.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        victim.write_bytes(content[:-10] + bytes([content[-10] ^ 1]) + content[-9:])
    elif damage == "remove":
        victim.unlink()
    else:
        victim = folder / MANIFEST
        victim.write_text("{")
    trainer = Trainer(tiny.transformer(), tiny.phases()[0].optimizer)
    with pytest.raises(CheckpointError, match=victim.name) as caught:
        trainer.load(folder)
    assert str(caught.value).endswith(".")


def test_half_written_state_is_not_used(tmp_path: Path) -> None:
    state = saved_state(tmp_path)
    (state.folder / "step-00000099.tmp").mkdir()
    assert newest_folder(state).name == "step-00000002"


def test_other_inputs_have_another_state(tmp_path: Path) -> None:
    assert ResumeState("s", {"a": 1}, tmp_path).folder != ResumeState("s", {"a": 2}, tmp_path).folder


def test_clear_forgets(tmp_path: Path) -> None:
    state = saved_state(tmp_path)
    state.clear()
    assert state.newest() is None


@pytest.mark.slow
def test_two_ranks_train_as_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    assert run_program(str(tmp_path / "a"), str(one), "0", "--whole").returncode == 0
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    done = run_program(str(tmp_path / "b"), str(two), "0", "--whole", launcher=launcher)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads(path.read_text())["curve"] for path in (one, two))
    dense = slice(0, 6)  # later phases teach the indexer on rows drawn apart on each rank
    assert [loss for _, loss in first[dense]] == pytest.approx([loss for _, loss in second[dense]], rel=2e-4)
