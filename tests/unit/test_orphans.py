"""Directories without a row, with a real store and real files: adopted, rebuilt, quarantined, or left alone."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from boxlited.model import BoxID, BoxSpec, EventKind
from boxlited.supervisor.cgroup import Cgroups
from boxlited.supervisor.directories import BoxFile, Directories
from boxlited.supervisor.layout import HomeLayout
from boxlited.supervisor.ledger import Ledger
from boxlited.supervisor.observe import Observer
from boxlited.supervisor.orphans import Orphans
from tests.unit.fake_kernel import FakeKernel
from tests.unit.limits import no_free_descriptor
from tests.unit.store_harness import opened

ID = BoxID.parse("a" * 16)
SPEC = BoxSpec(image="host", cmd=("sleep", "9"))


class World:
    """A home with one directory that no row knows, and all that looks at it."""

    def __init__(self, home: HomeLayout, ledger: Ledger, kernel: FakeKernel) -> None:
        self.home = home
        self.ledger = ledger
        self.kernel = kernel
        self.directories = Directories(home)
        observer = Observer(kernel, home, Cgroups(None, frozenset(), {}), lambda: None)
        self.orphans = Orphans(home, ledger, observer, self.directories)

    def put(self, config: bytes | None, pid_file: bytes | None = None) -> None:
        box = self.home.box(ID)
        box.directory.mkdir()
        for path, content in ((box.config, config), (box.pid_file, pid_file)):
            if content is not None:
                path.write_bytes(content)

    @property
    def kept(self) -> list[str]:
        return os.listdir(self.home.quarantine_dir)

    async def events(self) -> list[EventKind]:
        return [event.kind for event in await self.ledger.store.events_since(0, 100)]


@asynccontextmanager
async def world(tmp_path: Path) -> AsyncIterator[World]:
    home = HomeLayout(tmp_path / "home")
    Directories(home).prepare_home()
    home.database_dir.mkdir()
    kernel = FakeKernel()
    async with opened(home.database) as (store, _opening):
        yield World(home, Ledger(store, lambda handle: None), kernel)


def config(name: str = "web") -> bytes:
    return msgspec.json.encode(BoxFile(box_id=str(ID), name=name, created_at=1.5, spec=SPEC))


async def test_a_dead_directory_is_quarantined_or_rebuilt_where_its_row_was_lost(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        one.put(config())
        assert await one.orphans.scan(database_lost=True) == [ID]
        row = one.ledger.row(ID)
        assert (row.name, row.spec, row.created_at) == ("web", SPEC, 1.5)
        assert await one.orphans.scan(database_lost=True) == []  # it has a row now
    async with world(tmp_path / "other") as two:
        two.put(config())
        assert await two.orphans.scan(database_lost=False) == []
        assert [name.endswith(ID) for name in two.kept] == [True]
        assert await two.events() == [EventKind.QUARANTINED]


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"{", config("../x"), config().replace(b"aaa", b"bbb")])
@pytest.mark.parametrize("database_lost", [False, True])
async def test_garbage_does_not_stop_the_scan_and_is_kept(
    tmp_path: Path, content: bytes | None, database_lost: bool
) -> None:
    async with world(tmp_path) as one:
        one.put(content)
        (one.home.boxes_dir / ("x" * 255)).mkdir()
        (one.home.boxes_dir / "file").touch()
        (one.home.boxes_dir / ("b" * 16)).symlink_to("/nonexistent")
        assert await one.orphans.scan(database_lost=database_lost) == []
        assert one.directories.names() == []
        assert len(one.kept) == 4


async def test_a_live_shim_is_adopted_with_what_its_config_says_or_without(tmp_path: Path) -> None:
    for number, (content, name) in enumerate([(config(), "web"), (config("../x"), "adopted-aaaaaaaa")]):
        async with world(tmp_path / str(number)) as one:
            one.put(content, b"77\n1234\n")
            one.kernel.add(77, 1234)
            assert await one.orphans.scan(database_lost=False) == [ID]
            assert one.ledger.row(ID).name == name
            assert one.kept == []
            assert one.kernel.open_fds == {}


@pytest.mark.parametrize("of", [ID, "b" * 16, None])
async def test_a_pid_file_from_before_the_boot_leads_to_no_stranger(tmp_path: Path, of: str | None) -> None:
    """The same pid and start time, in another boot: only its sealed spec can say that it is this box's shim."""
    async with world(tmp_path) as one:
        one.put(config(), b"77\n1234\n")
        os.utime(one.home.box(ID).pid_file, (1.0, 1.0))
        process = one.kernel.add(77, 1234)
        process.sealed = None if of is None else json.dumps({"box_id": of, "run_id": "0" * 32}).encode()
        assert await one.orphans.scan(database_lost=False) == ([ID] if of == ID else [])
        assert one.directories.names() == [ID]
        assert (one.kept, one.kernel.open_fds) == ([], {})


async def test_what_cannot_be_examined_is_left_alone_and_rebuilt_later(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        one.put(config(), b"77\n1234\n")
        one.kernel.failures["pidfd_open"] = OSError(24, "Too many open files")
        assert await one.orphans.scan(database_lost=True) == []
        assert one.directories.names() == [ID]
        one.kernel.failures.clear()
        assert await one.orphans.scan(database_lost=False) == [ID]  # its row is still lost
        assert one.ledger.row(ID).spec == SPEC


async def test_a_config_that_cannot_be_read_now_is_not_taken_as_absent(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        one.put(config())
        with no_free_descriptor():
            assert await one.orphans._treat(ID, database_lost=True) is None
        assert one.directories.names() == [ID]
        assert await one.orphans.scan(database_lost=False) == [ID]
        assert one.ledger.row(ID).name == "web"


async def test_a_directory_that_is_being_created_is_no_orphan(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        one.put(config())
        one.orphans.creating.add(ID)
        assert await one.orphans.scan(database_lost=False) == []
        assert one.directories.names() == [ID]


async def test_no_event_says_that_a_directory_was_quarantined_when_it_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    async with world(tmp_path) as one:
        one.put(config())
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", refuse)
            assert await one.orphans.scan(database_lost=False) == []
        assert one.directories.names() == [ID]
        assert await one.events() == []
