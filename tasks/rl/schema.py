"""The trajectory store's tables. An episode's full state is its own while its group is open, else its group's.

episode: planned -> running -> finished -> judging -> judged      group: open -> claimed -> trained | dropped(reason)
"""

SCHEMA = """
CREATE TABLE IF NOT EXISTS groups (
    id INTEGER PRIMARY KEY,                 -- the group's index in the run, from 0 without gaps
    family TEXT NOT NULL,
    seed INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'claimed', 'trained', 'dropped')),
    step INTEGER,                           -- the learner step that claimed or dropped it
    reason TEXT,                            -- why it was dropped
    planned_version INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS episodes (
    group_id INTEGER NOT NULL REFERENCES groups (id),
    sample INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'planned'
        CHECK (state IN ('planned', 'running', 'finished', 'judging', 'judged')),
    worker TEXT,                            -- who holds the lease of a running or judging episode
    deadline REAL,                          -- Unix seconds at which that lease ends
    attempts INTEGER NOT NULL DEFAULT 0,    -- how often a worker took it and did not end it: rollout's, then judges'
    first_version INTEGER,
    last_version INTEGER,
    trajectory BLOB,
    reward REAL,                            -- NULL after judging: the environment failed
    error TEXT,
    PRIMARY KEY (group_id, sample)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS steps (
    step INTEGER PRIMARY KEY,               -- trains version `step` into version `step + 1`
    state TEXT NOT NULL CHECK (state IN ('claimed', 'trained')),
    metrics TEXT                            -- JSON
) STRICT;
CREATE TABLE IF NOT EXISTS health (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    failures INTEGER NOT NULL,              -- episodes in a row whose environment failed; a reward ends the row
    reason TEXT NOT NULL                    -- of the last of them
) STRICT;
CREATE TABLE IF NOT EXISTS ending (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    failed INTEGER NOT NULL,                -- 0: the run is done before its last step; 1: it cannot go on
    sentence TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS episodes_by_state ON episodes (state, group_id);
CREATE INDEX IF NOT EXISTS groups_by_state ON groups (state);
"""
