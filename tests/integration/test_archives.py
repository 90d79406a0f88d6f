"""Archives while another process has a transfer of its own: what is swept, and how much memory it takes."""

from __future__ import annotations

import os
import signal
import stat
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from boxlited.shim.archives import Limits, pack, unpack
from boxlited.shim.archives.tarstream import STAGING_PREFIX
from tests.unit.archive_support import MIX, entry, names_of, packed, put, tar, target_in, tree


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return target_in(tmp_path)


@contextmanager
def held_open(target: Path) -> Iterator[None]:
    """A transfer in another process that stands still in the middle, and is killed at the end."""
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        pieces = iter([MIX[:1024]])

        def read(_: int) -> bytes:
            for piece in pieces:
                return piece
            os.write(told, b"x")
            signal.pause()
            return b""

        try:
            unpack(read, str(target), overwrite=True)
        finally:
            os._exit(1)
    try:
        os.read(ready, 1)
        yield
    finally:
        os.close(ready)
        os.close(told)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def hidden(target: Path) -> list[str]:
    return [name for name in os.listdir(target) if name.startswith(STAGING_PREFIX.decode())]


def test_a_killed_transfer_leaves_only_its_hidden_directory_and_the_next_one_sweeps_it(target: Path) -> None:
    before = tree(target)
    with held_open(target):
        (left,) = hidden(target)
        assert stat.S_IMODE((target / left).stat().st_mode) == 0o700
    assert hidden(target) == [left]
    assert names_of(packed(f"{target}/.")) == sorted([".", *(f"./{name}" for name in before)])
    put(tar(entry("n", b"")), target)
    assert hidden(target) == []
    assert set(tree(target)) == {*before, "n"}


def test_a_sweep_leaves_a_living_transfer_alone(target: Path) -> None:
    with held_open(target):
        left = hidden(target)
        put(tar(entry("n", b"")), target)
        assert hidden(target) == left
        assert os.listdir(target / left[0])


def test_memory_stays_flat_whatever_goes_through(tmp_path: Path) -> None:
    size = 64 << 20
    with (tmp_path / "big").open("wb") as stream:
        stream.truncate(size)
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ready)
        with os.fdopen(told, "wb") as out:
            pack(str(tmp_path / "big"), out.write)
        os._exit(0)
    os.close(told)
    tracemalloc.start()
    unpack(lambda count: os.read(ready, count), str(tmp_path / "copy"), overwrite=False, limits=Limits())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    os.close(ready)
    os.waitpid(pid, 0)
    assert (tmp_path / "copy").stat().st_size == size
    assert peak < 8 << 20
