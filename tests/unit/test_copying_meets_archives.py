"""Promise: copying and the archives of a box understand each other. Both are real; what is between
them, and the box, is not: its root is the root of this host, below a directory of the test."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from boxlited import errors
from boxlited.client.copying import copy_in, copy_out
from boxlited.shim.archives import ArchiveRefused, pack, unpack
from tests.unit.test_client_files import FILLED, below, fill, tree


class Direct:
    """The files of a box without the box."""

    def put_files(self, _ref: str, path: str, content: Iterable[bytes]) -> None:
        pieces = iter(content)
        try:
            unpack(lambda _size: next(pieces, b""), path, overwrite=True)
        except ArchiveRefused as refused:
            raise errors.BY_CODE[refused.kind](str(refused)) from refused

    def get_files(self, _ref: str, path: str, *, follow_symlinks: bool = False) -> Packed:
        pieces: list[bytes] = []
        try:
            pack(path, pieces.append, follow_symlinks=follow_symlinks)
        except ArchiveRefused as refused:
            raise errors.BY_CODE[refused.kind](str(refused)) from refused
        return Packed(pieces)


class Packed:
    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self.headers: dict[str, str] = {}

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)

    def __enter__(self) -> Packed:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("filled/a", "new", {"new": "A"}),
        ("filled/a", "there", {"there": None, "there/a": "A"}),
        ("filled/a", "old", {"old": "A"}),
        ("filled", "new", below("new")),
        ("filled/", "new/", below("new")),
        ("filled", "there", {"there": None, **{f"there/{name}": content for name, content in below("filled").items()}}),
        ("filled/.", "there", {"there": None, **{f"there/{name}": content for name, content in FILLED.items()}}),
        ("filled/.", "new", below("new")),
        ("filled/sub/empty", "new", {"new": None}),
    ],
)
@pytest.mark.parametrize("direction", [copy_in, copy_out])
def test_what_lands_where(tmp_path: Path, direction: object, source: str, target: str, expected: dict) -> None:
    fill(tmp_path / "from" / "filled")
    area = tmp_path / "to"
    (area / "there").mkdir(parents=True)
    (area / "old").write_text("old")
    said_source, said_target = f"{tmp_path}/from/{source}", f"{area}/{target}"
    if direction is copy_in:
        copy_in(Direct(), said_source, "box", said_target)
    else:
        copy_out(Direct(), "box", said_source, said_target)
    landed = tree(area)
    assert {name: landed.get(name, "nothing") for name in expected} == expected
    assert set(landed) - set(expected) <= {"there", "old"}


def test_what_is_not_there_and_what_does_not_fit(tmp_path: Path) -> None:
    fill(tmp_path / "filled")
    (tmp_path / "old").write_text("old")
    with pytest.raises(errors.NotFound):
        copy_out(Direct(), "box", f"{tmp_path}/nothing", f"{tmp_path}/new")
    with pytest.raises(errors.InvalidArgument):
        copy_out(Direct(), "box", f"{tmp_path}/old/.", f"{tmp_path}/new")
    with pytest.raises(errors.InvalidArgument):
        copy_in(Direct(), f"{tmp_path}/filled", "box", f"{tmp_path}/old")
    with pytest.raises(errors.InvalidArgument):
        copy_in(Direct(), f"{tmp_path}/old", "box", f"{tmp_path}/new/")


def test_names_of_every_kind_and_times_survive(tmp_path: Path) -> None:
    source = tmp_path / "filled"
    source.mkdir()
    for name in ("long" * 60, "ü", "\udcff", "a b", "-x", "line\nbreak", " "):
        (source / name).write_text(name.encode("utf-8", "surrogateescape").hex())
    os.utime(source / "ü", (1_000_000_000.25, 1_000_000_000.25))
    copy_in(Direct(), str(source), "box", f"{tmp_path}/in")
    copy_out(Direct(), "box", f"{tmp_path}/in", f"{tmp_path}/out")
    assert tree(tmp_path / "out") == tree(tmp_path / "in") == tree(source)
    assert int((tmp_path / "out" / "ü").stat().st_mtime) == 1_000_000_000
