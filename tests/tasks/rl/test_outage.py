"""Runs that must not say they went well: broken boxes, nothing to learn, weights that are no numbers."""

import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tasks import reinforce
from tasks.config import load_config
from tasks.rl import supervisor
from tasks.rl.policy import PolicyStore
from tasks.rl.spec import policies_path, store_path
from tasks.rl.store import TrajectoryStore

QUICK = [
    "reinforce.reward=random", "reinforce.updates=3", "reinforce.groups_per_batch=2", "reinforce.samples_per_group=4",
    "reinforce.concurrency=8", "reinforce.max_context=256", "reinforce.oversample=3", "reinforce.learning_rate=1e-4",
]  # fmt: skip
NO_ROOM = ["reinforce.max_context=72", "reinforce.families={repair: 1.0}"]  # for one prompt of many, and no answer
pytestmark = pytest.mark.slow


def run(tmp_path, checkpoint, *overrides):
    """The run folder and what a run of the workers said."""
    run_dir = supervisor.prepare(load_config(overrides=[*QUICK, *overrides]), checkpoint, tmp_path / "state")
    with pytest.raises(supervisor.WorkerFailed) as caught:
        supervisor.run_all(run_dir, lambda line: None)
    return run_dir, str(caught.value)


def test_with_every_box_broken_the_run_stops_and_publishes_nothing(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setitem(supervisor.PROGRAMS, "rollout", "tests.tasks.rl.broken_boxes")
    run_dir, said = run(tmp_path, checkpoint)
    assert re.fullmatch(r"The environments are out: \d+ episodes in a row failed, .*no more processes.*\.", said)
    assert f"{run_dir}/*.log" in said
    assert "no more processes" in (run_dir / "rollout.log").read_text()
    store = TrajectoryStore(store_path(run_dir))
    assert (store.version(), PolicyStore(policies_path(run_dir)).versions()) == (0, [0])
    assert "trained" not in store.counts()
    assert set(store.dropped()) <= {"environment"}


def test_a_run_goes_on_once_its_outage_is_over(tmp_path, checkpoint, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setitem(supervisor.PROGRAMS, "rollout", "tests.tasks.rl.broken_boxes")
        run_dir, _ = run(tmp_path, checkpoint)
    config = load_config(overrides=QUICK)
    assert supervisor.prepare(config, checkpoint, tmp_path / "state") == run_dir
    supervisor.run_all(run_dir, lambda line: None)
    assert supervisor.finished(run_dir)
    assert PolicyStore(policies_path(run_dir)).latest() == 3


def test_a_context_that_holds_no_prompt_trains_nothing_and_says_so(tmp_path, checkpoint):
    run_dir, said = run(tmp_path, checkpoint, *NO_ROOM)
    assert re.match(r"Nothing was trained: all \d+ groups sampled for the next step", said)
    assert PolicyStore(policies_path(run_dir)).versions() == [0]


@pytest.mark.parametrize("objective", ["grpo_icepop", "decoupled_ppo", "glm5_agentic"])
def test_a_learning_rate_that_breaks_the_weights_publishes_nothing_that_is_not_finite(tmp_path, checkpoint, objective):
    rate = ["reinforce.learning_rate=1e30", f"reinforce.objective={objective}"]
    run_dir, said = run(tmp_path, checkpoint, *rate)
    assert f"reinforce.objective {objective}, reinforce.learning_rate 1e+30" in said
    policies = PolicyStore(policies_path(run_dir))
    for version in policies.versions():
        policies.load(version)


def test_sigterm_ends_the_stage_and_all_its_workers(tmp_path, checkpoint):
    shutil.copy("params.yaml", tmp_path)
    shutil.copytree(checkpoint, tmp_path / "checkpoints" / "midtrain")
    settings = [*QUICK, "reinforce.updates=2000", "reinforce.evaluation={shell: 300, chain: 0, repair: 0}"]
    command = [sys.executable, "-m", "tasks.reinforce", *(part for one in settings for part in ("--set", one))]
    with subprocess.Popen(command, cwd=tmp_path, env=_environment(), stderr=subprocess.PIPE, text=True) as stage:
        pids = _wait_for_pids(tmp_path)
        stage.send_signal(signal.SIGTERM)
        said = stage.communicate(timeout=60)[1]
    assert stage.returncode == 130
    assert "interrupted" in said.splitlines()[-1]
    assert not [pid for pid in pids if _alive(pid)]


def _environment():
    import os

    kept = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    return {**kept, "PYTHONPATH": os.getcwd()}


def _wait_for_pids(folder):
    deadline = time.monotonic() + 120
    names = {"rollout.pid", "judge.pid", "learner.pid", "measure.pid"}
    while time.monotonic() < deadline:
        found = {path.name: path for path in folder.glob(".longhaul/state/*/*.pid")}
        if names <= set(found):
            time.sleep(3)
            return [int(path.read_text()) for path in found.values()]
        time.sleep(0.1)
    raise AssertionError("the workers did not start")


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_stage_exits_1_with_one_sentence(tmp_path, checkpoint, monkeypatch, capsys):
    shutil.copy("params.yaml", tmp_path)
    shutil.copytree(checkpoint, tmp_path / "checkpoints" / "midtrain")
    monkeypatch.setenv("PYTHONPATH", _environment()["PYTHONPATH"])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    settings = [
        *QUICK,
        "reinforce.max_context=72",
        "reinforce.families={repair: 1.0}",
        "reinforce.evaluation={shell: 2, chain: 0, repair: 0}",
    ]
    assert reinforce.main([part for one in settings for part in ("--set", one)]) == 1
    assert capsys.readouterr().err.count("Nothing was trained") == 1
    assert not (tmp_path / "checkpoints" / "reinforce").exists()
    assert not (tmp_path / "metrics" / "reinforce.json").exists()
