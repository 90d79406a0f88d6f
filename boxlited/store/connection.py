"""Opening the database: permissions, checks, migrations, and setting a corrupt one aside.

The only module that imports aiosqlite. Statements run in the connection's own thread; a
whole batch is handed over at once, because each hop costs more than SQLite itself.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite
import structlog
from trio_asyncio import aio_as_trio, current_loop

from boxlited.errors import DatabaseError, StartupError
from boxlited.store.schema import MIGRATIONS, SCHEMA_VERSION

EX_DATAERR = 65
SUFFIXES = ("", "-wal", "-shm")
T = TypeVar("T")

log = structlog.get_logger()


class Corrupt(Exception):
    """The file is not a usable database."""


class Connection:
    """One aiosqlite connection. Every call is a function over the raw sqlite3 connection."""

    def __init__(self, raw: aiosqlite.Connection, loop: Any) -> None:
        self._raw = raw
        self._loop = loop  # callers run in tasks outside the loop's own context

    @classmethod
    async def open(cls, path: Path) -> Connection:
        """Open, check, migrate. Raises Corrupt, or StartupError for a newer schema or an unusable file."""
        try:
            raw = await aio_as_trio(_connect)(path)
        except sqlite3.Error as error:
            raise _startup(path, error) from error
        connection = cls(raw, current_loop.get())
        try:
            await connection.run(_prepare)
        except sqlite3.Error as error:
            await connection.close()
            if _is_corruption(error):
                raise Corrupt(str(error)) from error
            raise _startup(path, error) from error
        except BaseException:
            await connection.close()
            raise
        return connection

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function in the connection's thread. Raises what it raises."""
        execute: Any = self._raw._execute  # one hop for a whole batch; the public calls take one each
        result: T = await aio_as_trio(execute, loop=self._loop)(work, self._raw._conn)
        return result

    async def close(self) -> None:
        await aio_as_trio(self._raw.close, loop=self._loop)()


async def _connect(path: Path) -> aiosqlite.Connection:
    return await aiosqlite.connect(path, isolation_level=None)


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA busy_timeout = 5000")
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise StartupError(
            f"the database was written by a newer boxlited (schema {version}, this program knows {SCHEMA_VERSION}):"
            " upgrade boxlited; nothing was changed",
            EX_DATAERR,
        )
    answer = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if answer != "ok":
        raise Corrupt(str(answer))
    for number in range(version, SCHEMA_VERSION):
        script = f"BEGIN IMMEDIATE; {MIGRATIONS[number]} PRAGMA user_version = {number + 1}; COMMIT;"
        connection.executescript(script)


def _is_corruption(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _startup(path: Path, error: sqlite3.Error) -> StartupError:
    return StartupError(f"cannot open the database {path}: {error}; check its permissions and the disk", 73)


def set_aside(path: Path) -> Path:
    """Rename a corrupt database and its companions; never overwrites anything. Returns the new name."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    counter = 0
    while True:
        target = path.with_name(f"{path.name}.corrupt-{stamp}" + (f"-{counter}" if counter else ""))
        if not any(Path(f"{target}{suffix}").exists() for suffix in SUFFIXES):
            break
        counter += 1
    for suffix in SUFFIXES:
        source = Path(f"{path}{suffix}")
        if source.exists():
            os.rename(source, f"{target}{suffix}")
    return target


def translate(error: sqlite3.Error, path: Path) -> DatabaseError:
    """A failed commit in words. Nothing of the batch was changed."""
    code = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return DatabaseError(f"the disk is full: free space under {path.parent} and retry; nothing was changed")
    if code == sqlite3.SQLITE_IOERR:
        return DatabaseError(f"the disk under {path.parent} fails ({error}): check it and retry; nothing was changed")
    return DatabaseError(f"the database refused a write ({error}); nothing was changed")


def commit(statements: Sequence[tuple[str, Sequence[Any]]]) -> Callable[[sqlite3.Connection], None]:
    """One transaction over all statements; rolled back as a whole when one fails."""

    def work(connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            for sql, values in statements:
                connection.execute(sql, values)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    return work
