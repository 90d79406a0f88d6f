# ruff: noqa: ASYNC240 small files, and nothing else runs in these loops
"""Opening the database: new, older, newer, damaged, torn. What is set aside is never lost."""

from __future__ import annotations

import os
import random
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from boxlited.errors import DatabaseError, StartupError
from boxlited.store import opening as opening_module
from boxlited.store.codec import INSERT_BOX, box_values
from boxlited.store.schema import MIGRATIONS, SCHEMA_VERSION
from tests.unit.store_harness import WARNING, box, created, edit, filled, opened, raw, refusal, version


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "boxlited.db"


def older(path: Path, number: int, *more: str) -> None:
    """The file as an older program left it."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript("".join(MIGRATIONS[:number]) + f"PRAGMA user_version = {number};")
    for statement in more:
        connection.execute(statement)
    connection.commit()
    connection.close()


# -- versions


async def test_a_missing_or_empty_database_is_made_and_asks_for_a_rebuild_until_it_is_done(path: Path) -> None:
    path.touch()
    row = box(1)
    async with opened(path) as (store, opening):
        assert (opening.rebuilt, opening.set_aside) == (True, None)
        await store.insert(row, created(row))  # ... and the owner is killed half-way
    async with opened(path) as (store, opening):
        assert opening.rebuilt
        await store.finish_rebuild(WARNING)
        assert store.last_event_seq == 2
    async with opened(path) as (store, opening):
        assert not opening.rebuilt
        assert store.get(row.box_id) == row
    assert version(path) == SCHEMA_VERSION


@pytest.mark.parametrize("number", range(1, SCHEMA_VERSION))
async def test_an_older_database_is_migrated_and_keeps_its_rows(path: Path, number: int) -> None:
    row = box(1)
    was_filled = ["DELETE FROM facts"] if number >= 2 else []
    older(path, number, "INSERT INTO events VALUES (41, 1.0, 'warning', NULL, NULL, '{}')", *was_filled)
    connection = sqlite3.connect(path)
    connection.execute(INSERT_BOX, box_values(row))
    connection.commit()
    connection.close()
    async with opened(path) as (store, opening):
        assert not opening.rebuilt
        assert dict(store.boxes) == {row.box_id: row}
        event = await store.append_event(WARNING)
        assert event is not None
        assert event.seq == 42
    assert version(path) == SCHEMA_VERSION


async def test_a_migration_that_fails_leaves_the_older_database(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = await filled(path)
    broken = (*MIGRATIONS, "CREATE TABLE more (x) STRICT;")  # a bug: STRICT columns need a type
    monkeypatch.setattr(opening_module, "MIGRATIONS", broken)
    monkeypatch.setattr(opening_module, "SCHEMA_VERSION", len(broken))
    error = await refusal(path)
    assert f"from schema {SCHEMA_VERSION} to {SCHEMA_VERSION + 1}" in error.message
    assert not list(path.parent.glob("*.corrupt-*"))
    monkeypatch.undo()
    async with opened(path) as (store, opening):
        assert not opening.rebuilt
        assert dict(store.boxes) == {row.box_id: row}


# -- a file system that cannot do what is needed


def test_a_database_that_cannot_have_a_write_ahead_log_is_refused_and_not_set_aside(path: Path) -> None:
    path.touch()
    connection = sqlite3.connect(f"file:{path}?vfs=unix-dotfile", uri=True, isolation_level=None)  # shares no memory
    try:
        with pytest.raises(StartupError, match=r"write-ahead log .*'delete'.*--home") as refused:
            opening_module.prepare(connection, path, lambda _connection: None)
    finally:
        connection.close()
    assert refused.value.exit_code == 73
    assert path.exists()


# -- damage


def garbage(content: bytearray) -> None:
    content[:] = random.Random(1).randbytes(len(content))


def header(content: bytearray) -> None:
    content[:100] = bytes(100)


def text(content: bytearray) -> None:
    content[:] = b"this is no database\n" * 500


def page_halves(content: bytearray) -> None:
    for offset in range(4096, len(content), 4096):
        content[offset : offset + 2000] = b"\xff" * 2000


def cut_in_a_page(content: bytearray) -> None:
    del content[-6000:]


def cut_in_the_first_page(content: bytearray) -> None:
    del content[1000:]


def one_byte(content: bytearray) -> None:
    del content[1:]


def write_version(content: bytearray) -> None:
    content[18] = 77  # SQLite itself only makes it read-only


def schema_version(content: bytearray) -> None:
    content[60:64] = b"\xff\xff\xff\xfe"


def schema_text(content: bytearray) -> None:
    at = content.index(b"CREATE TABLE events")
    content[at : at + 6] = b"\xffREATE"


def a_column(content: bytearray) -> None:
    at = content.index(b"data TEXT NOT NULL")
    content[at : at + 4] = b"dbta"


DAMAGE = [garbage, header, text, page_halves, cut_in_a_page, cut_in_the_first_page, one_byte, write_version,
          schema_version, schema_text, a_column]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_corrupt_database_is_set_aside_whole(path: Path, damage: Callable[[bytearray], None]) -> None:
    await filled(path, 200)
    content = bytearray(path.read_bytes())
    damage(content)
    path.write_bytes(content)
    async with opened(path) as (store, opening):
        assert opening.rebuilt
        assert opening.set_aside is not None
        assert opening.set_aside.name.startswith("boxlited.db.corrupt-2")
        assert opening.set_aside.read_bytes() == content
        assert not store.boxes
        row = box(1)
        await store.insert(row, created(row))
        assert store.last_event_seq > 1_000_000_000  # above every number of the lost log
    async with opened(path) as (store, opening):
        assert opening.rebuilt
        assert dict(store.boxes) == {row.box_id: row}


async def test_what_only_looked_damaged_once_refuses_the_start_and_stays(path: Path) -> None:
    """SQLite calls a file malformed whose page could not be read; at a second look it could."""
    await filled(path, 3)
    looks = []

    def load(connection: sqlite3.Connection) -> None:
        looks.append(connection)
        if len(looks) == 1:
            error = sqlite3.DatabaseError("*** in database main ***\nPage 6: unable to get the page")
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error

    with pytest.raises(StartupError, match=r"main \*\*\* Page 6: .*whole at a second look; check .* the disk"):
        opening_module.prepare(sqlite3.connect(path, isolation_level=None), path, load)
    assert len(looks) == 2
    async with opened(path) as (store, opening):
        assert opening.set_aside is None
        assert len(store.boxes) == 3


async def test_what_was_set_aside_is_never_overwritten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening_module.time, "strftime", lambda *_: "20260101T000000Z")
    contents = [b"first" * 500, b"second" * 500, b"third" * 500]
    for content in contents:
        path.write_bytes(content)
        Path(f"{path}-wal").write_bytes(content)
        async with opened(path):
            pass
    kept = sorted(path.parent.glob("boxlited.db.corrupt-*[!l]"))
    assert [file.read_bytes() for file in kept] == contents
    assert [Path(f"{file}-wal").read_bytes() for file in kept] == contents


@pytest.mark.parametrize("empty", [True, False])
async def test_a_log_without_its_database_is_kept(path: Path, empty: bool) -> None:
    """A kill between the two renames; SQLite would delete the log."""
    Path(f"{path}-wal").write_bytes(b"evidence")
    if empty:
        path.touch()
    async with opened(path) as (_, opening):
        assert opening.rebuilt
        assert Path(f"{opening.set_aside}-wal").read_bytes() == b"evidence"


@pytest.mark.parametrize(
    "damage",
    ["status = 'dancing'", "spec = '{'", "spec = '{\"future\": 1}'", "name = '../x'", "not_applied = '3'",
     "name = CAST(x'ff41' AS TEXT)", "box_id = '..'"],
)  # fmt: skip
async def test_a_row_that_is_not_understood_costs_only_itself(path: Path, damage: str) -> None:
    bad, good = await filled(path, 2)
    edit(path, f"UPDATE boxes SET {damage} WHERE box_id = '{bad.box_id}'")
    async with opened(path) as (store, opening):
        assert (opening.rebuilt, opening.set_aside) == (True, None)  # its directory shall become a row again
        assert dict(store.boxes) == {good.box_id: good}
        await store.insert(bad, created(bad))
        await store.finish_rebuild()
    async with opened(path) as (store, opening):
        assert not opening.rebuilt
        assert set(store.boxes) == {bad.box_id, good.box_id}


async def test_an_event_that_is_not_understood_keeps_its_number(path: Path) -> None:
    await filled(path, 3)
    edit(path, "UPDATE events SET data = '{' WHERE seq = 1", "UPDATE events SET kind = 'dance' WHERE seq = 2")
    async with opened(path) as (store, _):
        assert [(event.seq, event.kind.value) for event in await store.events_since(0)] == [
            (1, "warning"), (2, "warning"), (3, "created"),
        ]  # fmt: skip


async def test_random_damage_is_repaired_or_refused_never_a_crash(path: Path) -> None:
    await filled(path, 30)
    good = path.read_bytes()
    for seed in range(60):
        dice = random.Random(seed)
        content = bytearray(good)
        for _ in range(dice.choice([1, 5, 50])):
            content[dice.randrange(dice.choice([100, 4096, len(good)]))] = dice.randrange(256)
        path.write_bytes(content)
        try:
            async with opened(path) as (store, _):
                row = box(1000)
                await store.insert(row, created(row))
                await store.events_since(0)
        except* StartupError:
            pass


# -- what may pass is no reason to set anything aside


async def test_a_directory_in_its_place_is_said(path: Path) -> None:
    path.mkdir()
    error = await refusal(path)
    assert error.message.startswith(f"cannot open the database {path}: Is a directory")
    assert path.is_dir()


async def test_a_lock_of_another_program_refuses_the_start_and_sets_nothing_aside(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(path)
    monkeypatch.setattr(opening_module, "BUSY_MILLISECONDS", 20)
    other = sqlite3.connect(path, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        assert "locked" in (await refusal(path)).message
    finally:
        other.close()
    assert not list(path.parent.glob("*.corrupt-*"))


async def test_damage_that_is_met_while_running_says_what_to_do(path: Path) -> None:
    rows = await filled(path, 200)
    async with opened(path) as (store, _):
        await raw(store, lambda connection: connection.execute("PRAGMA shrink_memory"))
        content = bytearray(path.read_bytes())
        page_halves(content)
        path.write_bytes(content)
        with pytest.raises(DatabaseError, match=r"damaged .*restart boxlited"):
            await store.update(rows[0].box_id, {"pid": 1})
    async with opened(path) as (_, opening):
        assert opening.set_aside is not None


async def test_the_files_are_private_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        path.touch(0o666)
        async with opened(path) as (store, _):
            row = box(1)
            await store.insert(row, created(row))
            for suffix in ("", "-wal", "-shm"):
                assert stat.S_IMODE(os.stat(f"{path}{suffix}").st_mode) == 0o600
    finally:
        os.umask(before)
