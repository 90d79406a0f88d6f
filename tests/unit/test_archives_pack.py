"""Taking files out: the layout that a copy_out expects, and streams that stay whole whatever the box does."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from pathlib import Path
from typing import Any

import pytest

from boxlited.shim.archives import ArchiveRefused, pack, packing
from tests.unit.archive_support import names_of, packed, small

CHUNK = packing.CHUNK


def out(path: Path | str, **options: Any) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(packed(path, **options)))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "src/sub").mkdir(parents=True)
    (tmp_path / "src/f").write_bytes(b"content")
    (tmp_path / "src/sub/l").symlink_to("../f")
    return tmp_path / "src"


def test_a_file_is_one_entry_with_its_own_name(source: Path) -> None:
    assert names_of(packed(source / "f")) == ["f"]
    (source.parent / "link").symlink_to("src/f")
    with out(source.parent / "link") as archive:
        member = archive.getmembers()[0]
        assert (member.name, member.isreg(), archive.extractfile("link").read()) == ("link", True, b"content")


@pytest.mark.parametrize("suffix", ["", "/"])
def test_a_directory_comes_under_its_own_name_and_its_entry_is_the_first(source: Path, suffix: str) -> None:
    with out(f"{source}{suffix}") as archive:
        assert archive.getmembers()[0].name == "src"
        assert sorted(archive.getnames()) == ["src", "src/f", "src/sub", "src/sub/l"]
        assert archive.getmember("src/sub/l").linkname == "../f"


def test_the_content_of_a_directory_is_asked_for_with_a_dot(source: Path) -> None:
    with out(f"{source}/.") as archive:
        assert archive.getmembers()[0].name == "."
        assert sorted(archive.getnames()) == [".", "./f", "./sub", "./sub/l"]


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("missing", "not_found", "No such file"),
        ("f/", "invalid_argument", "is not a directory"),
        ("f/below", "invalid_argument", "Not a directory"),
        ("pipe", "invalid_argument", "is neither a file nor a directory"),
        ("socket", "invalid_argument", "is neither a file nor a directory"),
        ("loop", "invalid_argument", "Too many levels"),
    ],
)
def test_a_path_that_cannot_be_packed_is_refused_before_the_first_write(
    source: Path, name: str, kind: str, said: str
) -> None:
    os.mkfifo(source / "pipe")
    (source / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(source / "socket"))
        written: list[bytes] = []
        with pytest.raises(ArchiveRefused) as caught:
            pack(f"{source}/{name}", written.append)
    assert (caught.value.kind, written) == (kind, [])
    assert said in caught.value.message


def test_what_is_neither_file_nor_directory_nor_link_is_left_out(source: Path) -> None:
    os.mkfifo(source / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(source / "socket"))
        assert names_of(packed(source)) == ["src", "src/f", "src/sub", "src/sub/l"]


@pytest.mark.parametrize("change", [b"", b"x" * 100, b"x" * (3 * CHUNK)])
def test_a_file_that_changes_its_size_meanwhile_does_not_spoil_the_stream(source: Path, change: bytes) -> None:
    (source / "f").write_bytes(b"a" * (2 * CHUNK + 7))
    data = b""

    def write(piece: bytes) -> None:
        nonlocal data
        data += piece
        (source / "f").write_bytes(change)

    pack(str(source), write)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert sorted(archive.getnames()) == ["src", "src/f", "src/sub", "src/sub/l"]
        assert archive.getmember("src/f").size == 2 * CHUNK + 7


def test_what_disappears_meanwhile_is_left_out(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat_at = packing.kind_at

    def remove(name: bytes, parent: int) -> os.stat_result | None:
        info = stat_at(name, parent)
        if name in (b"f", b"l"):
            os.unlink(name, dir_fd=parent)
        return info

    monkeypatch.setattr(packing, "kind_at", remove)
    assert names_of(packed(source)) == ["src", "src/sub"]


def test_followed_links_give_their_content_only_inside_and_never_twice_on_the_way(source: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    for name, target in {
        "inside": "sub", "out": "../secret", "absolute": f"{source}/f", "loop": "loop",
        "dangling": "no", "up": "sub/..",
    }.items():  # fmt: skip
        (source / name).symlink_to(target)
    (source / "sub/back").symlink_to("..")
    with out(source, follow_symlinks=True) as archive:
        kinds = {member.name.removeprefix("src/"): member.type for member in archive.getmembers()}
        assert archive.extractfile("src/sub/l").read() == b"content"
        assert archive.extractfile("src/inside/l").read() == b"content"
    assert kinds["inside"] == tarfile.DIRTYPE
    stay = {"out", "absolute", "loop", "dangling", "up", "sub/back", "inside/back"}
    assert {name for name, kind in kinds.items() if kind == tarfile.SYMTYPE} == stay
    assert b"secret" not in packed(source, follow_symlinks=True).replace(b"../secret", b"")


def test_links_that_multiply_end_at_the_limit(source: Path) -> None:
    for level in range(8):
        (source / f"{level}").mkdir()
        for side in "ab":
            (source / f"{level}/{side}").symlink_to(f"../{level + 1}")
    with pytest.raises(ArchiveRefused, match="more than 100 entries"):
        packed(source, follow_symlinks=True, limits=small())
    assert len(names_of(packed(source))) == 28


def test_a_tree_that_is_too_deep_is_refused(source: Path) -> None:
    (source / ("d/" * 12)).mkdir(parents=True)
    with pytest.raises(ArchiveRefused, match="more than 10 directories deep"):
        packed(source, limits=small())


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_ends_the_stream_with_its_name(source: Path) -> None:
    (source / "sub/locked").write_text("x")
    (source / "sub/locked").chmod(0)
    with pytest.raises(ArchiveRefused, match="packing 'src/sub/locked' failed: Permission denied"):
        packed(source)
