"""The trajectory store: one SQLite file in WAL mode, in which every change of state is one transaction.

A worker owns an episode by a lease (its name and a deadline). Work that arrives after the lease went back is
refused, so an episode counts once however often it was started. Kill any process at any instant: what was
committed stays, what was not never happened, and the lease returns by deadline or by `release`.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.rl import health, leases
from tasks.rl.admission import FLAT, Decision, ReadyGroup
from tasks.rl.advantages import is_reward
from tasks.rl.errors import RunStopped
from tasks.rl.schema import SCHEMA
from tasks.rl.trajectory import Trajectory, TrajectoryError, from_bytes, to_bytes


class StoreError(RunStopped):
    """The trajectory store is missing, damaged, or was asked for an impossible change."""


@dataclass(frozen=True)
class Lease:
    """One sample of one group, to be rolled out by the worker that holds it."""

    group: int
    sample: int
    family: str
    seed: int


@dataclass(frozen=True)
class Judged:
    """A trajectory with its reward; both None where the environment failed."""

    trajectory: Trajectory | None
    reward: float | None


class TrajectoryStore:
    """One connection; open one in each process (and in each thread that uses it)."""

    def __init__(self, path: str | Path, clock: Callable[[], float] = time.time) -> None:
        self.path = Path(path)
        self.clock = clock
        if not self.path.parent.is_dir():
            raise StoreError(f"The folder {self.path.parent} of the trajectory store does not exist.")
        self._connection = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.executescript(SCHEMA)
        except sqlite3.OperationalError:  # busy or full: another start may succeed
            raise
        except sqlite3.DatabaseError as error:
            raise StoreError(f"The trajectory store {self.path} cannot be opened: {error}.") from error

    def close(self) -> None:
        """Closes the connection; leases stay."""
        self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN IMMEDIATE")  # the write lock first: no upgrade can fail half-way
        try:
            yield self._connection
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    # --- rollout -----------------------------------------------------------------------------------------------

    def plan(
        self, admitted: int, samples: int, version: int, choose: Callable[[int], tuple[str, int]], at_most: int = 1
    ) -> int:
        """Plans up to `at_most` groups while fewer than `admitted` are accepted or running; says how many.

        `choose` maps a group's index to its (family, task seed). Dropped groups free their place.
        """
        with self._transaction() as db:
            (total, dropped) = db.execute("SELECT count(*), coalesce(sum(state = 'dropped'), 0) FROM groups").fetchone()
            planned = range(total, total + max(0, min(at_most, admitted - (total - dropped))))
            for index in planned:
                family, seed = choose(index)
                db.execute("INSERT INTO groups (id, family, seed, planned_version) VALUES (?, ?, ?, ?)",
                           (index, family, seed, version))  # fmt: skip
                db.executemany(
                    "INSERT INTO episodes (group_id, sample) VALUES (?, ?)", [(index, s) for s in range(samples)]
                )
        return len(planned)

    def lease_planned(self, worker: str, limit: int, seconds: float) -> list[Lease]:
        """Takes up to `limit` planned episodes, oldest group first, for `seconds`."""
        with self._transaction() as db:
            leases.put_aside(db, "running")
            rows = db.execute(
                "SELECT group_id, sample, family, seed FROM episodes JOIN groups ON groups.id = group_id"
                " WHERE episodes.state = 'planned' AND groups.state = 'open' ORDER BY group_id, sample LIMIT ?",
                (limit,),
            ).fetchall()  # fmt: skip
            leases.take(db, [row[:2] for row in rows], "running", worker, self.clock() + seconds)
        return [Lease(*row) for row in rows]

    def finish(self, trajectory: Trajectory, worker: str) -> bool:
        """Stores a running episode's trajectory. False, and no change, if the lease is no longer the worker's.

        A trajectory with an `error` needs no verdict: it is judged at once, without a reward.
        """
        versions = trajectory.sampled_versions
        state = "judged" if trajectory.error else "finished"
        with self._transaction() as db:
            changed = db.execute(
                "UPDATE episodes SET state = ?, worker = NULL, deadline = NULL, attempts = 0, trajectory = ?,"
                " error = ?, first_version = ?, last_version = ?"
                " WHERE group_id = ? AND sample = ? AND state = 'running' AND worker = ?",
                (state, to_bytes(trajectory), trajectory.error, versions[0] if versions else None,
                 versions[-1] if versions else None, trajectory.group, trajectory.sample, worker),
            ).rowcount  # fmt: skip
            if changed and trajectory.error:
                health.count_failure(db, trajectory.error)
        return changed == 1

    # --- judge -------------------------------------------------------------------------------------------------

    def lease_finished(self, worker: str, limit: int, seconds: float) -> list[Trajectory]:
        """Takes up to `limit` finished episodes for judging, oldest group first.

        One whose verdict was attempted before comes last and alone: if it kills its judge, no other suffers for it.
        """
        with self._transaction() as db:
            leases.put_aside(db, "judging")
            rows = db.execute(
                "SELECT group_id, sample, trajectory, attempts FROM episodes WHERE state = 'finished'"
                " ORDER BY attempts > 0, group_id, sample LIMIT ?",
                (limit,),
            ).fetchall()
            rows = [row for row in rows if row[3] == 0] or rows[:1]
            leases.take(db, [row[:2] for row in rows], "judging", worker, self.clock() + seconds)
        return [trajectory for row in rows if (trajectory := self._decoded(row[:2], row[2], worker))]

    def _decoded(self, key: tuple[int, int], data: bytes, worker: str) -> Trajectory | None:
        try:
            return from_bytes(data)
        except TrajectoryError as error:
            self.record_verdict(*key, worker, None, str(error))
            return None

    def record_verdict(self, group: int, sample: int, worker: str, reward: float | None, error: str | None) -> bool:
        """Stores a verdict; False, and no change, if the lease is no longer the worker's.

        A reward that is no number from 0 to 1 says that the judge failed, and is stored as such.
        """
        if (reward is None) == (error is None):
            raise StoreError(f"The verdict of sample {sample} of group {group} needs either a reward or an error.")
        if reward is not None and not is_reward(reward):
            reward, error = None, f"the judge gave the reward {reward}, which is no number from 0 to 1"
        with self._transaction() as db:
            changed = db.execute(
                "UPDATE episodes SET state = 'judged', worker = NULL, deadline = NULL, reward = ?, error = ?"
                " WHERE group_id = ? AND sample = ? AND state = 'judging' AND worker = ?",
                (reward, error, group, sample, worker),
            ).rowcount
            if changed and error is None:
                health.count_success(db)
            elif changed:
                health.count_failure(db, error or "")
        return changed == 1

    def break_off_verdict(self, group: int, sample: int, worker: str, reason: str) -> bool:
        """A verdict ended in an error of the judge's own: another attempt, or none if this was the last."""
        with self._transaction() as db:
            health.count_failure(db, reason)
            return leases.break_off(db, (group, sample), worker, reason)

    # --- leases ------------------------------------------------------------------------------------------------

    def renew(self, worker: str, seconds: float) -> int:
        """Moves the deadline of all leases of a living worker; how many it still holds."""
        with self._transaction() as db:
            return db.execute(
                "UPDATE episodes SET deadline = ? WHERE worker = ?", (self.clock() + seconds, worker)
            ).rowcount

    def release(self, worker: str) -> int:
        """Gives back every lease of a worker that ends; how many there were."""
        with self._transaction() as db:
            return leases.give_back(db, "worker = ?", worker, counts=False)

    def release_expired(self) -> int:
        """Gives back the leases whose deadline has passed: attempts of workers that died. How many there were."""
        with self._transaction() as db:
            return leases.give_back(db, "deadline < ?", self.clock(), counts=True)

    def release_all(self) -> int:
        """Gives back every lease; for the start of a run, when no worker is alive."""
        with self._transaction() as db:
            return leases.give_back(db, "worker IS NOT ?", None, counts=False)

    # --- the run -----------------------------------------------------------------------------------------------

    def failures(self) -> health.Failures:
        """Episodes in a row whose environment failed."""
        return health.failures(self._connection)

    def end(self, sentence: str, failed: bool) -> None:
        """The run takes no further step; every worker reads it here and ends."""
        with self._transaction() as db:
            health.end(db, health.Ending(failed, sentence))

    def ending(self) -> health.Ending | None:
        """Why the run takes no further step; None while it may go on."""
        return health.ending(self._connection)

    def finished(self, updates: int) -> bool:
        """Whether the last of `updates` steps is trained, or the run ended well before it."""
        ending = self.ending()
        return self.version() >= updates or (ending is not None and not ending.failed)

    def start_again(self) -> None:
        """For the start of a run, when no worker is alive: what stopped the last start may be over."""
        with self._transaction() as db:
            health.start_again(db)

    # --- learner -----------------------------------------------------------------------------------------------

    def version(self) -> int:
        """The learner's version: how many steps are trained."""
        return int(self._connection.execute("SELECT count(*) FROM steps WHERE state = 'trained'").fetchone()[0])

    def claim(self, step: int, decide: Callable[[Sequence[ReadyGroup], int], Decision]) -> list[int] | None:
        """The groups of `step`: those claimed before, or those `decide` picks; None while there are too few.

        `decide` gets the ready groups and how many that teach nothing were already dropped at this step.
        Drops, claim and step are one transaction, so a group belongs to one step for ever.
        """
        with self._transaction() as db:
            rows = db.execute("SELECT id FROM groups WHERE step = ? AND state <> 'dropped' ORDER BY id", (step,))
            if claimed := [row[0] for row in rows]:
                return claimed
            query = f"SELECT count(*) FROM groups WHERE step = ? AND reason IN ({', '.join('?' * len(FLAT))})"
            consumed = db.execute(query, (step, *FLAT)).fetchone()[0]
            decision = decide(self._ready(db), consumed)
            for group, reason in decision.drop.items():
                db.execute(
                    "UPDATE groups SET state = 'dropped', step = ?, reason = ? WHERE id = ?", (step, reason, group)
                )
            if not decision.claim:
                return None
            db.execute("INSERT OR REPLACE INTO steps (step, state) VALUES (?, 'claimed')", (step,))
            db.executemany(
                "UPDATE groups SET state = 'claimed', step = ? WHERE id = ?", [(step, g) for g in decision.claim]
            )
            return sorted(decision.claim)

    def _ready(self, db: sqlite3.Connection) -> list[ReadyGroup]:
        rows = db.execute(
            "SELECT group_id, reward, coalesce(first_version, -1) FROM episodes WHERE group_id IN ("
            " SELECT group_id FROM episodes JOIN groups ON groups.id = group_id WHERE groups.state = 'open'"
            " GROUP BY group_id HAVING min(episodes.state = 'judged') = 1) ORDER BY group_id, sample"
        ).fetchall()
        members: dict[int, list[tuple[float | None, int]]] = {}
        for group, reward, first_version in rows:
            members.setdefault(group, []).append((reward, first_version))
        return [ReadyGroup(g, tuple(m[0] for m in ms), tuple(m[1] for m in ms)) for g, ms in members.items()]

    def read_group(self, group: int) -> list[Judged]:
        """All samples of a judged group, in order."""
        rows = self._connection.execute(
            "SELECT trajectory, reward FROM episodes WHERE group_id = ? AND state = 'judged' ORDER BY sample", (group,)
        )
        return [Judged(from_bytes(data) if reward is not None else None, reward) for data, reward in rows]

    def discard_batch(self, step: int, reason: str) -> None:
        """Drops the groups claimed for `step`, which could not be trained on; the step then claims others."""
        with self._transaction() as db:
            db.execute("UPDATE groups SET state = 'dropped', reason = ? WHERE step = ? AND state = 'claimed'",
                       (reason, step))  # fmt: skip
            db.execute("DELETE FROM steps WHERE step = ? AND state = 'claimed'", (step,))

    def mark_trained(self, step: int, metrics: dict[str, Any]) -> None:
        """The batch of `step` is in the published policy `step + 1`. Repeating it changes nothing."""
        with self._transaction() as db:
            if not db.execute("SELECT 1 FROM steps WHERE step = ?", (step,)).fetchone():
                raise StoreError(f"Step {step} cannot be marked as trained: it was never claimed in {self.path}.")
            db.execute("UPDATE steps SET state = 'trained', metrics = ? WHERE step = ? AND state = 'claimed'",
                       (json.dumps(metrics, allow_nan=False), step))  # fmt: skip
            db.execute("UPDATE groups SET state = 'trained' WHERE step = ? AND state = 'claimed'", (step,))

    def end_run(self) -> int:
        """Drops the groups still open when the last step is trained (reason `run_ended`); how many there were."""
        with self._transaction() as db:
            return db.execute("UPDATE groups SET state = 'dropped', reason = 'run_ended' WHERE state = 'open'").rowcount

    # --- counters ----------------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Episodes by state; those of a claimed, trained or dropped group count under that."""
        rows = self._connection.execute(
            "SELECT CASE groups.state WHEN 'open' THEN episodes.state ELSE groups.state END AS state, count(*)"
            " FROM episodes JOIN groups ON groups.id = group_id GROUP BY 1"
        )
        return dict(rows.fetchall())

    def dropped(self, step: int | None = None) -> dict[str, int]:
        """Dropped groups by reason, of the whole run or of one step."""
        rows = self._connection.execute(
            "SELECT reason, count(*) FROM groups WHERE state = 'dropped' AND step IS coalesce(?, step) GROUP BY reason",
            (step,),
        )
        return dict(rows.fetchall())

    def history(self) -> list[dict[str, Any]]:
        """The metrics of every trained step, in order."""
        rows = self._connection.execute("SELECT step, metrics FROM steps WHERE state = 'trained' ORDER BY step")
        return [{"step": step, **json.loads(metrics)} for step, metrics in rows]

    def rewards(self, step: int) -> list[float]:
        """Every reward of the groups trained or dropped at `step`: what the policy earned, before any filter."""
        rows = self._connection.execute(
            "SELECT reward FROM episodes JOIN groups ON groups.id = group_id WHERE step = ? AND reward IS NOT NULL",
            (step,),
        )
        return [row[0] for row in rows]
