"""What the supervisor refuses, and that a run folder belongs to its parameters."""

import os
import shutil
import subprocess
import sys

import pytest

from tasks import reinforce
from tasks.config import load_config
from tasks.rl import supervisor
from tasks.rl.results import draw_curve, family_metrics
from tasks.rl.spec import SpecError, measurement_path, read_spec, store_path
from tasks.rl.store import TrajectoryStore
from tasks.rl.worker import PARENT

QUICK = ["reinforce.updates=1", "reinforce.evaluation={shell: 2, chain: 0, repair: 0}"]


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(supervisor.RunRefused, match=r"midtrain.*model\.safetensors does not exist"):
        supervisor.prepare(load_config(), tmp_path / "midtrain", tmp_path / "state")
    assert not (tmp_path / "state").exists()


def test_the_stage_says_so_and_exits_2(tmp_path, monkeypatch, capsys):
    shutil.copy("params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert reinforce.main([]) == 2
    assert "run midtrain first" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params.yaml"]


def test_the_same_parameters_find_the_same_run_and_others_another(tmp_path, checkpoint):
    first = supervisor.prepare(load_config(), checkpoint, tmp_path)
    assert supervisor.prepare(load_config(), checkpoint, tmp_path) == first
    assert supervisor.prepare(load_config(overrides=["seed=2"]), checkpoint, tmp_path) != first
    assert supervisor.prepare(load_config(overrides=["reinforce.eta=0"]), checkpoint, tmp_path) != first


def test_prepare_gives_back_the_leases_of_dead_workers(tmp_path, checkpoint):
    run_dir = supervisor.prepare(load_config(), checkpoint, tmp_path)
    store = TrajectoryStore(store_path(run_dir))
    store.plan(9, 2, 0, lambda group: ("shell", group))
    store.lease_planned("dead", 9, 1000)
    supervisor.prepare(load_config(), checkpoint, tmp_path)
    assert store.counts() == {"planned": 2}


def test_an_altered_policy_stops_the_run_with_one_sentence(tmp_path, checkpoint):
    run_dir = supervisor.prepare(load_config(), checkpoint, tmp_path)
    weights = run_dir / "policies" / "000000" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    lines = []
    with pytest.raises(supervisor.WorkerFailed, match=r"000000/model\.safetensors is missing or was altered"):
        supervisor.run_worker("learner", run_dir, lines.append)
    assert len(lines) == 1


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(SpecError, match="no reinforcement learning run"):
        read_spec(tmp_path)
    (tmp_path / "spec.json").write_text("{}")
    with pytest.raises(SpecError, match=r"spec\.json is no run spec"):
        read_spec(tmp_path)


def test_a_measured_family_is_not_measured_again(tmp_path, checkpoint, monkeypatch):
    run_dir = supervisor.prepare(load_config(overrides=QUICK), checkpoint, tmp_path)
    measurement_path(run_dir, "before", "shell").write_text("{}")
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    supervisor.measure(run_dir, "before")


def test_a_run_killed_after_its_last_step_still_gets_its_first_measurement(tmp_path, checkpoint, monkeypatch):
    config = load_config(overrides=QUICK)
    run_dir = supervisor.prepare(config, checkpoint, tmp_path)
    measured = []

    def measure(kind, arguments, *_):
        measured.append((kind, arguments[3]))
        measurement_path(run_dir, arguments[3], "shell").write_text("{}")
        return 0

    monkeypatch.setattr(supervisor, "prepare", lambda *_: run_dir)
    monkeypatch.setattr(supervisor, "finished", lambda _: True)
    monkeypatch.setattr(supervisor, "_run_once", measure)
    monkeypatch.setattr(reinforce, "finish", lambda config, run_dir, tracker: {"ended": run_dir})
    monkeypatch.setattr(reinforce, "INPUTS", (checkpoint,))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert reinforce.reinforce(config) == {"ended": run_dir}
    assert measured == [("measure", "before"), ("measure", "after")]


def test_a_killed_measurement_ends_the_stage_and_not_its_metrics(tmp_path, checkpoint, monkeypatch):
    run_dir = supervisor.prepare(load_config(overrides=QUICK), checkpoint, tmp_path)
    monkeypatch.setattr(supervisor, "_run_once", lambda *_: -9)
    with pytest.raises(supervisor.WorkerFailed, match="shell before the run ended with code -9"):
        supervisor.measure(run_dir, "before")


def test_families_carry_both_estimates(tmp_path, checkpoint):
    run_dir = supervisor.prepare(load_config(overrides=QUICK), checkpoint, tmp_path)
    for when, value in (("before", 0.25), ("after", 0.5)):
        text = f'{{"pass_at_1": {{"value": {value}, "ci95": [0.2, 0.6], "n": 2}}, "environment_errors": 0}}'
        measurement_path(run_dir, when, "shell").write_text(text)
    families = family_metrics(run_dir)
    assert families["shell"]["gain"] == 0.25
    assert families["shell"]["pass_at_1_after"] == {"value": 0.5, "ci95": [0.2, 0.6], "n": 2}
    draw_curve(tmp_path / "curve.png", [{"step": 0, "reward": 0.1, "entropy": 1.0, "staleness": 0}], families)
    assert (tmp_path / "curve.png").stat().st_size > 5000


def test_a_worker_whose_supervisor_is_gone_stops(tmp_path, checkpoint):
    run_dir = supervisor.prepare(load_config(), checkpoint, tmp_path)
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    environment = {**os.environ, PARENT: gone.stdout.decode().strip()}
    command = [sys.executable, "-m", "tasks.rl.judging", "--run-dir", str(run_dir)]
    assert subprocess.run(command, env=environment, timeout=200, check=False).returncode == 0
