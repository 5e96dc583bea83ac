"""kill -9 of rollout, judge, learner and supervisor, as real processes: nothing is lost, nothing is trained twice."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
import torch

from tasks.config import load_config
from tasks.rl import supervisor
from tasks.rl.batch import examples_of
from tasks.rl.optimisation import build_optimizer, restore_optimizer, train_step
from tasks.rl.policy import PolicyStore
from tasks.rl.spec import policies_path, read_spec, store_path
from tasks.rl.store import TrajectoryStore

UPDATES, GROUPS, SAMPLES = 16, 3, 4
SETTINGS = [
    "reinforce.reward=random", f"reinforce.updates={UPDATES}", f"reinforce.groups_per_batch={GROUPS}",
    f"reinforce.samples_per_group={SAMPLES}", "reinforce.concurrency=6", "reinforce.max_context=256",
    "reinforce.max_staleness=2", "reinforce.eta=1", "reinforce.keep_policies=99", "reinforce.lease_seconds=5.0",
]  # fmt: skip
PROGRAM = """
import sys
from pathlib import Path
from tasks.config import load_config
from tasks.rl import supervisor
checkpoint, state, *overrides = sys.argv[1:]
supervisor.PROGRAMS["judge"] = "tests.tasks.rl.slow_judging"
supervisor.run_all(supervisor.prepare(load_config("params.yaml", overrides), Path(checkpoint), Path(state)))
"""
pytestmark = pytest.mark.slow


@pytest.fixture
def program(tmp_path, checkpoint):
    started = []

    def start():
        command = [sys.executable, "-c", PROGRAM, str(checkpoint), str(tmp_path / "state"), *SETTINGS]
        started.append(subprocess.Popen(command))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_every_trajectory_counts_once_whatever_is_killed(tmp_path, checkpoint, program):
    config = load_config("params.yaml", SETTINGS)
    run_dir = supervisor.prepare(config, checkpoint, tmp_path / "state")
    chance = random.Random(11)
    first = program()
    _wait_for(lambda: _version(run_dir) >= 2, first)
    orphans = [_pid(run_dir, kind) for kind in supervisor.KINDS]
    first.kill()
    first.wait()
    _wait_for(lambda: not any(_alive(pid) for pid in orphans))

    second = program()
    for kind in ("learner", "rollout", "judge", "learner"):
        version = _version(run_dir)
        _wait_for(lambda kind=kind, since=version: _at_work(run_dir, kind, since), second)
        time.sleep(chance.uniform(0.0, 0.4))
        _kill(_pid(run_dir, kind))
    assert second.wait(timeout=200) == 0
    _check_counts(run_dir)
    _check_that_each_batch_was_trained_once(run_dir)


def test_sigterm_gives_the_leases_back(tmp_path, checkpoint):
    # Nobody judges here, so the work is what may be planned ahead: too much to end before a look finds a lease.
    endless = [*SETTINGS, "reinforce.updates=2000", "reinforce.eta=2000"]
    run_dir = supervisor.prepare(load_config("params.yaml", endless), checkpoint, tmp_path / "state")
    worker = subprocess.Popen([sys.executable, "-m", "tasks.rl.rollout", "--run-dir", str(run_dir)])
    leases = "SELECT count(*) FROM episodes WHERE worker IS NOT NULL"
    try:
        _wait_for(lambda: _ask(run_dir, leases), worker)
        worker.terminate()
        assert worker.wait(timeout=120) == 0
    finally:
        worker.kill()
        worker.wait()
    assert _ask(run_dir, leases) == 0


def _ask(run_dir, query):
    with sqlite3.connect(store_path(run_dir)) as db:
        return db.execute(query).fetchone()[0]


def _check_counts(run_dir):
    store = TrajectoryStore(store_path(run_dir))
    store.end_run()
    history, counts = store.history(), store.counts()
    with sqlite3.connect(store_path(run_dir)) as db:
        groups = db.execute("SELECT id, state, step FROM groups ORDER BY id").fetchall()
        stored = db.execute("SELECT count(*), count(DISTINCT group_id || '/' || sample) FROM episodes").fetchone()
    assert [row["step"] for row in history] == list(range(UPDATES))
    assert [group for group, _, _ in groups] == list(range(len(groups)))
    assert stored == (len(groups) * SAMPLES, len(groups) * SAMPLES)
    assert set(counts) <= {"trained", "dropped"}
    assert counts["trained"] == UPDATES * GROUPS * SAMPLES == sum(row["trajectories"] for row in history)
    assert max(row["staleness"] for row in history) <= 2


def _check_that_each_batch_was_trained_once(run_dir):
    """Trains every stored batch again from the published version before it: the next version must come out."""
    torch.set_num_threads(1)
    spec, store, policies = (
        read_spec(run_dir),
        TrajectoryStore(store_path(run_dir)),
        PolicyStore(policies_path(run_dir)),
    )
    for step in range(UPDATES):
        groups = store.claim(step, lambda ready, consumed: pytest.fail("an unclaimed step was trained"))
        model = policies.load(step)
        optimizer = build_optimizer(model, spec.reinforce)
        restore_optimizer(model, optimizer, policies.load_learner(step))
        examples = [example for group in groups for example in examples_of(store.read_group(group))]
        train_step(model, optimizer, examples, spec.reinforce, step, spec.seed * 1_000_003 + step)
        published = policies.load(step + 1).state_dict()
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, published[name], rtol=0, atol=0, msg=f"{name} after step {step}")


def _wait_for(condition, process=None, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, "the run ended too early"
        assert time.monotonic() < deadline, "the run made no progress"
        time.sleep(0.02)


def _at_work(run_dir, kind, version):
    """A learner that trained a step since `version`; a rollout or judge worker that holds a lease."""
    if kind == "learner":
        return _version(run_dir) > version
    with sqlite3.connect(store_path(run_dir)) as db:
        pattern = f"{'judging' if kind == 'judge' else kind}-{_pid(run_dir, kind)}-%"
        return bool(db.execute("SELECT count(*) FROM episodes WHERE worker LIKE ?", (pattern,)).fetchone()[0])


def _version(run_dir):
    store = TrajectoryStore(store_path(run_dir))
    version = store.version()
    store.close()
    return version


def _pid(run_dir, kind):
    path = run_dir / f"{kind}.pid"
    return int(path.read_text() or 0) if path.exists() else 0


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _kill(pid):
    if _alive(pid):
        os.kill(pid, signal.SIGKILL)
