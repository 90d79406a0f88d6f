"""The database of a daemon that is down, changed or lost behind its back."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

from tests.integration.daemon_harness import Daemon


def database(daemon: Daemon) -> Path:
    return daemon.home / "db" / "boxlited.db"


def edit_rows(daemon: Daemon, sql: str, *values: object) -> None:
    """Change the table while no daemon runs."""
    connection = sqlite3.connect(database(daemon))
    try:
        with connection:
            connection.execute(sql, values)
    finally:
        connection.close()


def lose_database(daemon: Daemon) -> None:
    shutil.rmtree(daemon.home / "db")
    (daemon.home / "db").mkdir()
