"""Directories that are made together: each stands or falls alone, and nothing half-made is left."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import trio

from boxlited.errors import BoxlitedError, StorageError
from boxlited.model import BoxID, BoxSpec
from boxlited.supervisor.create import MAX_TOGETHER, DirectoryMaker
from boxlited.supervisor.directories import BoxFile, Directories
from boxlited.supervisor.layout import HomeLayout


class Turns(Directories):
    """The real thing, counting its turns; `hold` keeps a turn from ending."""

    def __init__(self, home: HomeLayout) -> None:
        super().__init__(home)
        self.sizes: list[int] = []

    def create_all(self, configs):  # type: ignore[no-untyped-def]
        self.sizes.append(len(configs))
        return super().create_all(configs)


@pytest.fixture
def home(tmp_path: Path) -> HomeLayout:
    layout = HomeLayout(tmp_path)
    Directories(layout).prepare_home()
    return layout


def box_file(box_id: BoxID | None = None) -> BoxFile:
    box_id = box_id or BoxID.mint()
    return BoxFile(box_id=str(box_id), name=f"n-{box_id}", created_at=1.0, spec=BoxSpec(image="host"))


async def test_all_who_wait_share_a_turn(home: HomeLayout) -> None:
    turns = Turns(home)
    maker = DirectoryMaker(turns)
    files = [box_file() for _ in range(MAX_TOGETHER + 20)]
    async with trio.open_nursery() as nursery:
        for file in files:
            nursery.start_soon(maker.make, file)
    assert sum(turns.sizes) == len(files)
    assert len(turns.sizes) < 6
    assert max(turns.sizes) <= MAX_TOGETHER
    for file in files:
        layout = home.box(BoxID.parse(file.box_id))
        assert msgspec.json.decode(layout.config.read_bytes(), type=BoxFile) == file
        assert sorted(path.name for path in layout.directory.iterdir()) == [
            "box.json", "logs", "sockets", "tmp", "upper", "work",
        ]  # fmt: skip
        assert {path.stat().st_mode & 0o777 for path in (layout.directory, layout.logs_dir)} == {0o700}


async def test_one_that_cannot_be_made_fails_alone_and_what_was_there_stays(home: HomeLayout) -> None:
    taken = BoxID.mint()
    (home.boxes_dir / taken).mkdir()
    (home.boxes_dir / taken / "precious").write_text("x")
    maker = DirectoryMaker(Directories(home))
    failed: list[BoxlitedError] = []

    async def make(file: BoxFile) -> None:
        try:
            await maker.make(file)
        except BoxlitedError as error:
            failed.append(error)

    good = [box_file() for _ in range(5)]
    async with trio.open_nursery() as nursery:
        for file in [*good[:2], box_file(taken), *good[2:]]:
            nursery.start_soon(make, file)
    assert [type(error) for error in failed] == [StorageError]
    assert str(taken) in failed[0].message
    assert (home.boxes_dir / taken / "precious").read_text() == "x"
    assert all(home.box(BoxID.parse(file.box_id)).config.exists() for file in good)


async def test_without_a_place_all_fail_in_words_and_nobody_waits_for_ever(home: HomeLayout) -> None:
    home.boxes_dir.rmdir()
    maker = DirectoryMaker(Directories(home))
    failed: list[str] = []

    async def make() -> None:
        with pytest.raises(StorageError) as error:
            await maker.make(box_file())
        failed.append(error.value.message)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(make)
    assert len(failed) == 5
    assert all("No such file or directory" in message for message in failed)


async def test_a_bug_in_a_turn_is_an_error_for_each_that_was_in_it(home: HomeLayout) -> None:
    class Broken(Directories):
        def create_all(self, configs):  # type: ignore[no-untyped-def]
            raise ZeroDivisionError

    maker = DirectoryMaker(Broken(home))
    ended: list[str] = []

    async def make() -> None:
        try:
            await maker.make(box_file())
        except (BoxlitedError, ZeroDivisionError) as error:
            ended.append(type(error).__name__)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(make)
    assert len(ended) == 3


async def test_who_gives_up_while_waiting_is_not_made_and_holds_nobody_up(home: HomeLayout) -> None:
    maker = DirectoryMaker(Directories(home))
    given_up, kept = box_file(), box_file()

    async def give_up() -> None:
        with trio.move_on_after(0.01):
            await maker.make(given_up)

    with trio.fail_after(20):
        async with maker._turn, trio.open_nursery() as nursery:  # somebody else's turn
            nursery.start_soon(give_up)
        await maker.make(kept)
    assert [path.name for path in home.boxes_dir.iterdir()] == [kept.box_id]
