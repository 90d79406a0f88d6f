"""The database file: created private, checked, migrated, and set aside when it is corrupt.

Synchronous; the connection's thread runs it. A file is set aside only when its content is
proven wrong. What may pass (permissions, I/O errors, a lock) refuses the start instead, and
a database of a newer program is not even opened for writing.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from boxlited.errors import StartupError
from boxlited.failpoints import hit
from boxlited.store.schema import MIGRATIONS, OLDEST_SQLITE, SCHEMA_VERSION

BUSY_MILLISECONDS = 5000  # only an operator's own sqlite3 can hold a lock
EX_DATAERR = 65
EX_UNAVAILABLE = 69
EX_SOFTWARE = 70
EX_CANTCREAT = 73
T = TypeVar("T")
PLAUSIBLE_VERSION = 1000  # a schema number beyond it is damage, not a newer program
SUFFIXES = ("", "-wal", "-shm", "-journal")
# The statements run here are known to be good: an error of logic or of a constraint is the file's.
CONTENT_ERRORS = frozenset(
    {
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_SCHEMA,
        sqlite3.SQLITE_FORMAT,
        sqlite3.SQLITE_TOOBIG,
    }
)


class Corrupt(Exception):
    """The file is not a usable database."""


def primary_code(error: BaseException) -> int:
    """SQLite's result code without its extension; 0 when the error is not SQLite's own."""
    return (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def prepare(connection: sqlite3.Connection, path: Path, load: Callable[[sqlite3.Connection], T]) -> T:
    """Check, migrate, load. Raises Corrupt; StartupError for a newer schema or an unusable file.

    A read that fails makes SQLite say that a file is malformed, as damage does: only what is found twice, in files that
    can be read from end to end, is damage.
    """
    try:
        return _examine(connection, path, load)
    except Corrupt as problem:
        connection.close()
        _read_through(path)
        with closing(sqlite3.connect(path, isolation_level=None)) as again:
            _examine(again, path, load)
        said = " ".join(str(problem).split())  # SQLite says it in several lines
        passing = Corrupt(f"it was read as damaged ({said}) and is whole at a second look")
        raise unusable(path, passing) from problem


def _read_through(path: Path) -> None:
    for suffix in ("", "-wal"):
        try:
            with open(f"{path}{suffix}", "rb") as file:
                while file.read(1 << 20):
                    continue
        except FileNotFoundError:
            continue
        except OSError as error:
            raise unusable(path, error) from error


def _examine(connection: sqlite3.Connection, path: Path, load: Callable[[sqlite3.Connection], T]) -> T:
    connection.text_factory = partial(str, encoding="utf-8", errors="replace")
    try:
        _check_header(path)
        _refuse_newer(path)
        _use_write_ahead_log(connection, path)
        _judge_version(_version(connection), path)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
        _check(connection)
        _migrate(connection, path)
        return load(connection)
    except UnicodeDecodeError as error:  # SQLite quotes the damaged content in its message
        raise Corrupt(str(error)) from error
    except sqlite3.Error as error:
        if primary_code(error) in CONTENT_ERRORS:
            raise Corrupt(str(error)) from error
        raise unusable(path, error) from error


def _use_write_ahead_log(connection: sqlite3.Connection, path: Path) -> None:
    """SQLite refuses it without an error, by naming the mode that stays."""
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise StartupError(
            f"the database {path} cannot have a write-ahead log (SQLite keeps journal mode {mode!r}): put the home on a"
            " local file system that can share memory (--home); a network file system often cannot",
            EX_CANTCREAT,
        )


def _check_header(path: Path) -> None:
    """SQLite opens a file with an unknown write version without a word, but only for reading."""
    with path.open("rb") as file:
        header = file.read(100)
    if header and (len(header) < 100 or not {*header[18:20]} <= {1, 2}):
        raise Corrupt("its header is not whole")


def _check(connection: sqlite3.Connection) -> None:
    """Content, and that it can be written. The log has no index, so this costs little more than
    `quick_check`, which does not see a damaged index."""
    answer = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if answer != "ok":
        raise Corrupt(str(answer))
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("ROLLBACK")


def _refuse_newer(path: Path) -> None:
    """Through a connection of its own that cannot write, so that not even the WAL is folded in."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise StartupError(f"SQLite {sqlite3.sqlite_version} is too old: {oldest} is needed", EX_UNAVAILABLE)
    reader = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
    try:
        _judge_version(_version(reader), path)
    except sqlite3.OperationalError as error:
        if primary_code(error) != sqlite3.SQLITE_READONLY:
            raise  # else its first commit was cut, before there was a WAL: to roll that back is to write
    finally:
        reader.close()


def _judge_version(version: int, path: Path) -> None:
    if SCHEMA_VERSION < version <= PLAUSIBLE_VERSION:
        raise StartupError(
            f"the database {path} was written by a newer boxlited (schema {version}, this program knows"
            f" {SCHEMA_VERSION}): upgrade boxlited, or restore the database of the older one; nothing was changed",
            EX_DATAERR,
        )
    if not 0 <= version <= PLAUSIBLE_VERSION:
        raise Corrupt(f"schema number {version}")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """A failure here is rather a mistake of the migration than of a file that passed its checks."""
    before = _version(connection)
    for number in range(before, SCHEMA_VERSION):
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE; {MIGRATIONS[number]} PRAGMA user_version = {number + 1}; COMMIT;"
            )
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if before == 0 or primary_code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise
            raise StartupError(
                f"cannot bring the database {path} from schema {number} to {number + 1}: {error}; it is as schema"
                f" {number} left it: use the earlier boxlited and report this",
                EX_SOFTWARE,
            ) from error


def unusable(path: Path, error: Exception) -> StartupError:
    reason = error.strerror if isinstance(error, OSError) else error
    return StartupError(f"cannot open the database {path}: {reason}; check its permissions and the disk", EX_CANTCREAT)


def create_private(path: Path) -> bool:
    """The file exists, mode 0600, before SQLite opens it; its companions inherit the mode.

    False when it was missing or empty. Raises StartupError.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        try:
            os.fchmod(fd, 0o600)
            return os.fstat(fd).st_size > 0
        finally:
            os.close(fd)
    except OSError as error:
        raise unusable(path, error) from error


def set_aside(path: Path) -> Path:
    """Rename a database and its companions; never overwrites anything. Returns the new name.

    The companions of a database that is gone are set aside too, or SQLite would delete them.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    counter = 0
    target = path.with_name(f"{path.name}.corrupt-{stamp}")
    while any(os.path.lexists(f"{target}{suffix}") for suffix in SUFFIXES):
        counter += 1
        target = path.with_name(f"{path.name}.corrupt-{stamp}.{counter}")
    for suffix in SUFFIXES:
        try:
            os.rename(f"{path}{suffix}", f"{target}{suffix}")
            hit("store.set_aside")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise unusable(path, error) from error
    return target


def has_leftovers(path: Path) -> bool:
    """Is there a write-ahead log with content beside a database that is missing or empty?"""
    try:
        return os.stat(f"{path}-wal").st_size > 0
    except FileNotFoundError:
        return False


def was_set_aside(path: Path) -> bool:
    """Was an earlier database of this name ever set aside?"""
    return any(path.parent.glob(f"{path.name}.corrupt-*"))
