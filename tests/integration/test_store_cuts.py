# ruff: noqa: ASYNC240, ASYNC221 small files, short programs, and nothing else runs in these loops
"""The database of a process that was killed, or left without a close: what is kept, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent, indent

import pytest
import trio
import trio.testing

from boxlited.store.schema import SCHEMA_VERSION
from tests.unit.store_harness import box, created, filled, opened, refusal, version


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "boxlited.db"


async def killed_after(path: Path, work: str) -> None:
    """A process opens the store, does this work, says so, and is gone."""
    program = f"""
import os, sys, trio
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.unit.store_harness import opened, box, created, removed
async def main():
    async with opened(Path({str(path)!r})) as (store, _):
{indent(dedent(work).strip(), " " * 8)}
        os.write(1, b"acknowledged")
        os.kill(os.getpid(), 9)
trio.run(main)
"""
    done = await trio.run_process([sys.executable, "-c", program], capture_stdout=True, stderr=subprocess.STDOUT,
                                  check=False)  # fmt: skip
    assert (done.stdout, done.returncode) == (b"acknowledged", -9)


@pytest.mark.parametrize("kind", ["insert", "update", "delete"])
async def test_what_was_acknowledged_survives_sigkill(path: Path, kind: str) -> None:
    work = f"""
        for number in range(20):
            row = box(number)
            await store.insert(row, created(row))
            if {kind!r} == "update":
                await store.update(row.box_id, {{"pid": number}})
            if {kind!r} == "delete":
                await store.delete(row.box_id, removed(row))
    """
    await killed_after(path, work)
    async with opened(path) as (store, _):
        assert len(store.boxes) == (0 if kind == "delete" else 20)
        assert store.last_event_seq == (40 if kind == "delete" else 20)
        if kind == "update":
            assert sorted(row.pid or 0 for row in store.boxes.values()) == list(range(20))


@pytest.mark.parametrize("how", ["folded in", "in the write-ahead log"])
async def test_a_newer_database_is_refused_and_not_a_byte_of_it_changed(path: Path, how: str) -> None:
    await filled(path)
    program = f"import os, sqlite3; c = sqlite3.connect({str(path)!r}); "
    program += f"c.execute('PRAGMA user_version = {SCHEMA_VERSION + 1}'); c.commit(); "
    program += "c.close()" if how == "folded in" else "os._exit(0)"
    await trio.run_process([sys.executable, "-c", program])
    wal = Path(f"{path}-wal")
    before = path.read_bytes(), wal.read_bytes() if wal.exists() else b""
    assert bool(before[1]) == (how != "folded in")
    error = await refusal(path)
    assert (
        f"newer boxlited (schema {SCHEMA_VERSION + 1}, this program knows {SCHEMA_VERSION}): upgrade" in error.message
    )
    assert error.exit_code == 65
    assert (path.read_bytes(), wal.read_bytes() if wal.exists() else b"") == before
    assert not list(path.parent.glob("*.corrupt-*"))


@pytest.mark.parametrize("tail", ["appended", "cut", "flipped"])
async def test_a_torn_end_of_the_log_costs_nothing_that_was_committed_before_it(path: Path, tail: str) -> None:
    work = """
        await store.finish_rebuild()
        for number in range(10):
            row = box(number)
            await store.insert(row, created(row))
    """
    await killed_after(path, work)
    wal = Path(f"{path}-wal")
    content = bytearray(wal.read_bytes())
    if tail == "appended":
        content += os.urandom(5000)
    elif tail == "cut":
        del content[-2000:]
    else:
        content[-2000] ^= 0xFF
    wal.write_bytes(content)
    async with opened(path) as (store, opening):
        assert (opening.rebuilt, opening.set_aside) == (False, None)
        assert len(store.boxes) == (10 if tail == "appended" else 9)
        row = box(99)
        await store.insert(row, created(row))


CUT = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 1")
connection.execute(f"PRAGMA user_version = {sys.argv[2]}")
connection.execute("BEGIN")
connection.execute("CREATE TABLE left_over (content)")
connection.executemany("INSERT INTO left_over VALUES (?)", [("x" * 3000,)] * 50)
os._exit(0)
"""


@pytest.mark.parametrize("number", [0, SCHEMA_VERSION + 1])
async def test_a_first_commit_that_was_cut_is_rolled_back(path: Path, number: int) -> None:
    """Before there is a WAL, SQLite keeps a rollback journal: to read such a file is to write it first."""
    subprocess.run([sys.executable, "-c", CUT, str(path), str(number)], check=True, timeout=60)
    journal = Path(f"{path}-journal")
    assert journal.stat().st_size > 0
    if number > SCHEMA_VERSION:
        assert "newer boxlited" in (await refusal(path)).message
        return
    async with opened(path):
        pass
    assert not journal.exists()
    assert version(path) == SCHEMA_VERSION
