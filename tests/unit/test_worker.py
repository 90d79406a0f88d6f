"""Work in a thread: what it raises comes through, and a host without a thread is told in words."""

from __future__ import annotations

import threading

import pytest
import trio

from boxlited.errors import ResourceExhausted
from boxlited.supervisor.create import DirectoryMaker
from boxlited.supervisor.directories import Directories
from boxlited.supervisor.layout import HomeLayout
from boxlited.supervisor.worker import in_worker
from tests.unit.test_create import box_file


@pytest.fixture
def no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Python says it when clone fails with EAGAIN. Idle workers of earlier tests are not there either."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(trio._core._thread_cache.THREAD_CACHE, "_idle_workers", {})


async def test_what_the_work_gives_and_raises_comes_through() -> None:
    assert await in_worker(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await in_worker(divmod, 7, 0)
    with pytest.raises(RuntimeError, match="of its own"):
        await in_worker(_fail)


def _fail() -> None:
    raise RuntimeError("of its own")


@pytest.mark.usefixtures("no_thread")
async def test_without_a_thread_it_says_what_to_do() -> None:
    with pytest.raises(ResourceExhausted, match="TasksMax"):
        await in_worker(divmod, 7, 2)


@pytest.mark.usefixtures("no_thread")
async def test_without_a_thread_each_create_of_a_turn_fails_in_words(home: HomeLayout) -> None:
    maker = DirectoryMaker(Directories(home))
    refused = []

    async def make() -> None:
        with pytest.raises(ResourceExhausted, match="TasksMax"):
            await maker.make(box_file())
        refused.append(True)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(make)
    assert len(refused) == 5
    assert list(home.boxes_dir.iterdir()) == []


@pytest.fixture
def home(tmp_path) -> HomeLayout:  # type: ignore[no-untyped-def]
    layout = HomeLayout(tmp_path)
    Directories(layout).prepare_home()
    return layout
