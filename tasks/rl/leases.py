"""Who holds which episode, and until when: changes inside a transaction of the trajectory store.

An attempt is a lease that a worker took and neither ended nor gave back: the worker died, or the episode broke it.
After MOST_ATTEMPTS of them the episode is put aside as an environment failure, so that no episode kills workers
for ever.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

MOST_ATTEMPTS = 3
_WAITING = {"running": "planned", "judging": "finished"}
_PUT_ASIDE = f"put aside after {MOST_ATTEMPTS} attempts: "
Key = tuple[int, int]


def take(db: sqlite3.Connection, keys: Sequence[Key], state: str, worker: str, deadline: float) -> None:
    """Leases the episodes (group, sample) to `worker` until `deadline`."""
    db.executemany(
        "UPDATE episodes SET state = ?, worker = ?, deadline = ?, attempts = attempts + 1"
        " WHERE group_id = ? AND sample = ?",
        [(state, worker, deadline, *key) for key in keys],
    )


def put_aside(db: sqlite3.Connection, state: str) -> int:
    """Ends the waiting episodes of `state` ("running" or "judging" comes next) whose attempts are used up."""
    return db.execute(
        "UPDATE episodes SET state = 'judged', error = ? || coalesce(error, 'its workers ended while they held it')"
        " WHERE state = ? AND attempts >= ?",
        (_PUT_ASIDE, _WAITING[state], MOST_ATTEMPTS),
    ).rowcount


def break_off(db: sqlite3.Connection, key: Key, worker: str, reason: str) -> bool:
    """A verdict broke off: the episode waits for its next attempt. False if the lease is no longer the worker's."""
    changed = db.execute(
        "UPDATE episodes SET state = 'finished', worker = NULL, deadline = NULL, error = ?"
        " WHERE group_id = ? AND sample = ? AND state = 'judging' AND worker = ?",
        (reason, *key, worker),
    ).rowcount
    put_aside(db, "judging")
    return changed == 1


def give_back(db: sqlite3.Connection, condition: str, value: object, counts: bool) -> int:
    """Returns the leases that `condition` names; `counts`: as attempts, else as if they had not been taken."""
    return db.execute(
        "UPDATE episodes SET state = CASE state WHEN 'running' THEN 'planned' ELSE 'finished' END,"
        f" worker = NULL, deadline = NULL, attempts = max(0, attempts - {0 if counts else 1})"
        f" WHERE state IN ('running', 'judging') AND {condition}",
        (value,),
    ).rowcount
