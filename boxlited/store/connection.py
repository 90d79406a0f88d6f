"""One SQLite connection in its own thread, reached from trio.

The only module that imports aiosqlite and trio-asyncio's adapters. A whole batch is handed to
the thread at once, because each hop costs more than SQLite itself.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite
import trio

from boxlited.errors import DatabaseError
from boxlited.failpoints import hit
from boxlited.store.aio import aio_as_trio, current_loop
from boxlited.store.opening import prepare, primary_code, unusable

CLOSE_SECONDS = 10.0
T = TypeVar("T")
Statement = tuple[str, Sequence[Any]]


class Connection:
    """Every call is a function over the raw sqlite3 connection."""

    def __init__(self, raw: aiosqlite.Connection, loop: Any) -> None:
        self._raw = raw
        self._loop = loop  # callers run in tasks outside the loop's own context

    @classmethod
    async def open(cls, path: Path, load: Callable[[sqlite3.Connection], T]) -> tuple[Connection, T]:
        """Open, check, migrate; returns what `load` returns too. Raises Corrupt, StartupError."""
        problems: list[sqlite3.Error] = []
        try:
            raw = await aio_as_trio(_connect)(path, problems)
        except RuntimeError as error:  # no thread for it
            raise unusable(path, error) from error
        connection = cls(raw, current_loop.get())
        try:
            if problems:
                raise unusable(path, problems[0])
            return connection, await connection.run(partial(prepare, path=path, load=load))
        except BaseException:
            await connection.close()
            raise

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function in the connection's thread. Raises what it raises.

        When cancelled, the function runs to its end all the same; only its result is lost.
        """
        execute: Any = self._raw._execute  # one hop for a whole batch; the public calls take one each
        result: T = await aio_as_trio(execute, loop=self._loop)(work, self._raw._conn)
        return result

    async def close(self) -> None:
        """Fold the write-ahead log in and close. A disk that does not answer is not waited for."""
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            await aio_as_trio(self._raw.close, loop=self._loop)()


async def _connect(path: Path, problems: list[sqlite3.Error]) -> aiosqlite.Connection:
    """A failure is reported aside: aiosqlite's own way leaves a thread behind that nobody waits for."""

    def connector() -> sqlite3.Connection:
        try:
            return sqlite3.connect(path, isolation_level=None)
        except sqlite3.Error as error:
            problems.append(error)
            return sqlite3.connect(":memory:")

    return await aiosqlite.Connection(connector, iter_chunk_size=64)


def commit(statements: Sequence[Statement]) -> Callable[[sqlite3.Connection], None]:
    """One transaction over all statements; rolled back as a whole when one fails."""

    def work(connection: sqlite3.Connection) -> None:
        if connection.in_transaction:  # an earlier rollback failed with the disk
            connection.execute("ROLLBACK")
        connection.execute("BEGIN IMMEDIATE")
        try:
            for sql, values in statements:
                connection.execute(sql, values)
            hit("store.before_commit")
            connection.execute("COMMIT")
            hit("store.after_commit")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    return work


def translate(error: Exception, path: Path) -> DatabaseError:
    """A failed commit in words. Nothing of the batch was changed."""
    directory = path.parent
    match primary_code(error):
        case sqlite3.SQLITE_FULL:
            text = f"the disk is full: free space under {directory} and retry"
        case sqlite3.SQLITE_IOERR:
            text = f"the disk under {directory} fails ({error}): check it and retry"
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            text = f"{directory} cannot be written ({error}): check its permissions and mount, and retry"
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            text = f"another program holds the database {path} locked: end it and retry"
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            text = f"the database {path} is damaged ({error}): restart boxlited, which sets it aside and rebuilds it"
        case _:
            text = f"the database {path} refused a write ({error or type(error).__name__})"
    return DatabaseError(f"{text}; nothing was changed")
