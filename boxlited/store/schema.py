"""Numbered migrations of the box database. `PRAGMA user_version` is the number of the last one.

A migration is never edited once released; each runs in one transaction with its number. A change
of the JSON inside a column (a new field of BoxSpec) needs a number too: an older program must
refuse such a database rather than not understand its rows.
"""

from __future__ import annotations

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE boxes (
        box_id TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        spec TEXT NOT NULL,
        status TEXT NOT NULL,
        desired TEXT NOT NULL,
        created_at REAL NOT NULL,
        updated_at REAL NOT NULL,
        started_at REAL,
        ended_at REAL,
        run_id TEXT,
        pid INTEGER,
        boot_id TEXT,
        pidfs_inode INTEGER,
        identity TEXT NOT NULL,
        started_boottime REAL,
        ended_boottime REAL,
        used_boottime REAL,
        stop_cause TEXT,
        failure_reason TEXT,
        exit_code INTEGER,
        exit_signal TEXT,
        error_kind TEXT,
        restart_count INTEGER NOT NULL,
        not_applied TEXT NOT NULL,
        warning TEXT
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE events (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        at REAL NOT NULL,
        kind TEXT NOT NULL,
        box_id TEXT,
        name TEXT,
        data TEXT NOT NULL
    ) STRICT;
    CREATE TABLE idempotency (
        key TEXT PRIMARY KEY,
        box_id TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        at REAL NOT NULL
    ) STRICT, WITHOUT ROWID;
    """,
    # A table without rows is taken for a new one: its owner is asked to fill it from the box
    # directories, again and again until it says that it has done so.
    """
    CREATE TABLE facts (
        name TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    INSERT INTO facts SELECT 'rebuild', 'wanted' WHERE NOT EXISTS (SELECT 1 FROM boxes);
    """,
    "-- `desired` may be 'restarted'\n",
)

SCHEMA_VERSION = len(MIGRATIONS)
OLDEST_SQLITE = (3, 37, 0)  # STRICT tables
