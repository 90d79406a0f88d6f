"""Numbered migrations of the box database. `PRAGMA user_version` is the number of the last one.

A migration is never edited once released; each runs in one transaction.
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
)

SCHEMA_VERSION = len(MIGRATIONS)
