"""The trajectory store: examples, and a state machine that lets workers die at any point."""

import sqlite3

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tasks.rl.admission import admitted_groups, choose_batch
from tasks.rl.store import StoreError, TrajectoryStore

SAMPLES, BATCH, ETA, TAU, UPDATES = 3, 2, 1, 2, 6


def choose(index):
    return "shell", index


@pytest.fixture
def store(tmp_path):
    opened = TrajectoryStore(tmp_path / "t.sqlite", clock=lambda: 100.0)
    yield opened
    opened.close()


def _finish_all(store, make_trajectory, worker="w", version=0):
    for lease in store.lease_planned(worker, 100, 10):
        store.finish(make_trajectory(lease.group, lease.sample, version), worker)


def _judge_all(store, reward, judge="j"):
    for trajectory in store.lease_finished(judge, 100, 10):
        store.record_verdict(trajectory.group, trajectory.sample, judge, reward(trajectory), None)


def test_planning_stops_at_the_admitted_number(store):
    assert store.plan(3, SAMPLES, 0, choose, at_most=10) == 3
    assert store.plan(3, SAMPLES, 0, choose, at_most=10) == 0
    assert store.counts() == {"planned": 9}


def test_a_dropped_group_frees_its_place(store, make_trajectory):
    store.plan(1, SAMPLES, 0, choose)
    _finish_all(store, make_trajectory)
    _judge_all(store, lambda trajectory: 1.0)
    store.claim(0, lambda ready, consumed: choose_batch(ready, 0, TAU, 1, consumed, 6))
    assert store.dropped() == {"zero_variance": 1}
    assert store.plan(1, SAMPLES, 0, choose) == 1


def test_work_after_the_lease_went_back_is_refused(store, make_trajectory):
    store.plan(1, SAMPLES, 0, choose)
    assert len(store.lease_planned("slow", 10, 10)) == SAMPLES
    assert store.release("slow") == SAMPLES
    assert len(store.lease_planned("quick", 10, 10)) == SAMPLES
    assert not store.finish(make_trajectory(0, 0), "slow")
    assert store.finish(make_trajectory(0, 0), "quick")
    assert not store.finish(make_trajectory(0, 0), "quick")
    assert store.counts() == {"finished": 1, "running": 2}


def test_leases_return_when_their_deadline_passes(tmp_path):
    now = [100.0]
    store = TrajectoryStore(tmp_path / "t.sqlite", clock=lambda: now[0])
    store.plan(1, SAMPLES, 0, choose)
    store.lease_planned("w", 2, 10)
    now[0] = 109.0
    assert store.release_expired() == 0
    assert store.renew("w", 10) == 2
    now[0] = 118.0
    assert store.release_expired() == 0
    now[0] = 120.0
    assert store.release_expired() == 2


def test_an_environment_error_needs_no_verdict(store, make_trajectory):
    store.plan(1, 1, 0, choose)
    store.lease_planned("w", 1, 10)
    store.finish(make_trajectory(0, 0, error="the box broke"), "w")
    assert store.counts() == {"judged": 1}
    assert store.read_group(0)[0].reward is None


def test_a_verdict_is_a_reward_or_an_error(store):
    with pytest.raises(StoreError, match="either a reward or an error"):
        store.record_verdict(0, 0, "j", None, None)


def test_a_claimed_batch_stays_the_same_until_it_is_trained(store, make_trajectory):
    store.plan(2, 2, 0, choose, at_most=2)
    _finish_all(store, make_trajectory)
    _judge_all(store, lambda trajectory: float(trajectory.sample))

    def decide(ready, consumed):
        return choose_batch(ready, 0, TAU, 1, consumed, 6)

    assert store.claim(0, decide) == [0]
    assert store.claim(0, lambda ready, consumed: pytest.fail("decided twice")) == [0]
    store.mark_trained(0, {"reward": 0.5})
    store.mark_trained(0, {"reward": 9.9})
    assert store.history() == [{"step": 0, "reward": 0.5}]
    assert store.version() == 1
    assert store.counts() == {"trained": 2, "judged": 2}


def test_an_unclaimed_step_cannot_be_trained(store):
    with pytest.raises(StoreError, match="Step 3 cannot be marked"):
        store.mark_trained(3, {})


def test_a_file_that_is_no_store_is_named(tmp_path):
    (tmp_path / "t.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreError, match=r"t\.sqlite"):
        TrajectoryStore(tmp_path / "t.sqlite")


def test_a_failed_transaction_leaves_nothing(store):
    def broken(index):
        if index == 1:
            raise RuntimeError("killed")
        return choose(index)

    with pytest.raises(RuntimeError):
        store.plan(2, SAMPLES, 0, broken, at_most=2)
    assert store.counts() == {}


class StoreMachine(RuleBasedStateMachine):
    """Two rollout workers, two judges and a learner that may lose their leases or their memory at any time."""

    def __init__(self):
        super().__init__()
        self.path = _scratch()
        self.now = 0.0
        self.store = TrajectoryStore(self.path, clock=lambda: self.now)
        self.held = {name: [] for name in ("r0", "r1", "j0", "j1")}
        self.verdicts = {}
        self.trained = {}

    rollouts, judges = st.sampled_from(["r0", "r1"]), st.sampled_from(["j0", "j1"])

    @rule(count=st.integers(1, 3))
    def plan(self, count):
        version = self.store.version()
        self.store.plan(admitted_groups(version, ETA, BATCH, UPDATES), SAMPLES, version, choose, count)

    @rule(worker=rollouts, count=st.integers(1, 5))
    def lease(self, worker, count):
        self.held[worker] += self.store.lease_planned(worker, count, 10)

    @rule(worker=rollouts, error=st.booleans(), late=st.integers(0, 2))
    def finish(self, worker, error, late):
        if self.held[worker]:
            lease = self.held[worker].pop()
            version = max(0, self.store.version() - late)
            text = "broke" if error and lease.sample == 0 else None
            self.store.finish(_trajectory(lease.group, lease.sample, version, text), worker)

    @rule(judge=judges, count=st.integers(1, 5))
    def lease_finished(self, judge, count):
        self.held[judge] += self.store.lease_finished(judge, count, 10)

    @rule(judge=judges, reward=st.sampled_from([0.0, 1.0, None]))
    def verdict(self, judge, reward):
        if self.held[judge]:
            held = self.held[judge].pop()
            key = (held.group, held.sample)
            if self.store.record_verdict(*key, judge, reward, None if reward is not None else "no box"):
                assert key not in self.verdicts, "an episode was judged twice"
                self.verdicts[key] = reward

    @rule(worker=st.sampled_from(["r0", "r1", "j0", "j1"]), forgets=st.booleans())
    def die(self, worker, forgets):
        self.store.release(worker)
        if forgets:  # else it lives on and tries to hand in work whose lease is gone
            self.held[worker].clear()

    @rule(seconds=st.sampled_from([1.0, 6.0, 11.0]))
    def time_passes(self, seconds):
        self.now += seconds
        self.store.release_expired()

    @rule(dies=st.booleans())
    def learn(self, dies):
        step = self.store.version()
        decide = lambda ready, consumed: choose_batch(ready, step, TAU, BATCH, consumed, 4)  # noqa: E731
        groups = self.store.claim(step, decide)
        if groups is not None:
            assert self.trained.setdefault(step, groups) == groups, "a claimed batch changed"
            if not dies:
                self.store.mark_trained(step, {"groups": len(groups)})

    @rule()
    def reopen(self):
        self.store.close()
        self.store = TrajectoryStore(self.path, clock=lambda: self.now)

    @invariant()
    def nothing_is_lost_or_doubled(self):
        rows = _rows(self.path, "SELECT id FROM groups ORDER BY id")
        assert [row[0] for row in rows] == list(range(len(rows)))
        assert sum(self.store.counts().values()) == len(rows) * SAMPLES

    @invariant()
    def a_group_is_trained_at_most_once(self):
        groups = [group for claimed in self.trained.values() for group in claimed]
        assert len(groups) == len(set(groups))

    @invariant()
    def admission_is_kept(self):
        (alive,) = _rows(self.path, "SELECT count(*) FROM groups WHERE state <> 'dropped'")[0]
        assert alive <= admitted_groups(self.store.version(), ETA, BATCH, 10**6)

    @invariant()
    def staleness_is_bounded(self):
        query = (
            "SELECT max(step - first_version) FROM groups JOIN episodes ON id = group_id"
            " WHERE groups.state IN ('claimed', 'trained') AND reward IS NOT NULL"
        )
        assert (_rows(self.path, query)[0][0] or 0) <= TAU

    @invariant()
    def leases_are_held_by_running_and_judging_episodes_only(self):
        query = "SELECT count(*) FROM episodes WHERE (worker IS NULL) = (state IN ('running', 'judging'))"
        assert _rows(self.path, query) == [(0,)]

    def teardown(self):
        self.store.close()


_FACTORIES = {}


def _rows(path, query):
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def _scratch():
    return _FACTORIES["folder"].mktemp("machine") / "t.sqlite"


def _trajectory(*arguments):
    return _FACTORIES["trajectory"](*arguments)


def test_workers_may_die_at_any_point(tmp_path_factory, make_trajectory):
    from hypothesis.stateful import run_state_machine_as_test

    _FACTORIES.update(folder=tmp_path_factory, trajectory=make_trajectory)
    limits = settings(max_examples=25, stateful_step_count=50, deadline=None)
    run_state_machine_as_test(StoreMachine, settings=limits)
