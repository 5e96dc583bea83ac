"""Whether the environments work, and whether the run has ended: rows that every worker reads and writes.

Episodes that fail one after another, without a reward in between, say that the machine is out, not the policy. The
row lies in the store, so that all workers stop, whatever started them.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from tasks.config.sections import ReinforceConfig

FEWEST, MOST = 32, 256


@dataclass(frozen=True)
class Ending:
    """Why a run takes no further step. Not failed: it has learned what it could and its results may be written."""

    failed: bool
    sentence: str


@dataclass(frozen=True)
class Failures:
    """Episodes in a row whose environment failed, and the reason of the last."""

    in_a_row: int = 0
    reason: str = ""


def outage_after(settings: ReinforceConfig) -> int:
    """Failures in a row that are an outage: all that may run at once have failed, and as many again, within bounds."""
    return min(MOST, max(FEWEST, 2 * settings.concurrency))


def outage_sentence(failures: Failures, run_dir: Path) -> str:
    """What the run ends with."""
    return (
        f"The environments are out: {failures.in_a_row} episodes in a row failed, the last because of"
        f" {failures.reason!r}; nothing was trained on them, the log is {run_dir}/*.log, and the same command goes on"
        " from the last published policy once the cause is gone."
    )


def failing(dropped: int, settings: ReinforceConfig) -> bool:
    """Whether so many groups of a step failed, though not in a row, that no batch will come of it."""
    in_a_row = -(-2 * outage_after(settings) // settings.samples_per_group)  # groups, if all of them failed
    return dropped >= max(settings.oversample * settings.groups_per_batch, in_a_row)


def failing_sentence(dropped: int, version: int, run_dir: Path) -> str:
    """What the run ends with when so many episodes fail that no group of a step is left."""
    return (
        f"The environments fail too often: {dropped} groups were dropped at step {version} because half of their"
        f" episodes or more failed; the reasons are in {run_dir}/*.log, and the same command goes on from policy"
        f" {version} once the cause is gone."
    )


def count_failure(db: sqlite3.Connection, reason: str) -> None:
    """One more episode failed."""
    db.execute(
        "INSERT INTO health VALUES (1, 1, ?)"
        " ON CONFLICT (one) DO UPDATE SET failures = failures + 1, reason = excluded.reason",
        (reason,),
    )


def count_success(db: sqlite3.Connection) -> None:
    """An episode got its reward."""
    db.execute("DELETE FROM health")


def failures(db: sqlite3.Connection) -> Failures:
    """The failures since the last reward."""
    row = db.execute("SELECT failures, reason FROM health").fetchone()
    return Failures(*row) if row else Failures()


def end(db: sqlite3.Connection, ending: Ending) -> None:
    """The run has ended; the first reason stays."""
    db.execute("INSERT OR IGNORE INTO ending VALUES (1, ?, ?)", (int(ending.failed), ending.sentence))


def ending(db: sqlite3.Connection) -> Ending | None:
    """Why the run has ended; None while it may go on."""
    row = db.execute("SELECT failed, sentence FROM ending").fetchone()
    return Ending(bool(row[0]), row[1]) if row else None


def start_again(db: sqlite3.Connection) -> None:
    """A new start of a run that failed: its outage may be over."""
    db.execute("DELETE FROM ending WHERE failed = 1")
    db.execute("DELETE FROM health")
    db.execute(
        "UPDATE groups SET step = NULL WHERE state = 'dropped' AND reason = 'environment'"
        " AND step NOT IN (SELECT step FROM steps WHERE state = 'trained')"
    )
