"""Promises of copying: what lands where, as with `docker cp`; and what a hostile archive cannot do."""

from __future__ import annotations

import io
import os
import socket
import stat
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from boxlited import errors
from boxlited.client import AsyncClient, Client
from boxlited.client.tars import packed
from tests.unit import client_kinds, fake_daemon
from tests.unit.client_kinds import WEB, with_a_box
from tests.unit.fake_daemon import FakeDaemon, problem

FILES = f"/v1/boxes/{WEB}/files"
SHAPES = ["named", "dot", "flat"]
fake = with_a_box(fake_daemon.serving)
client = client_kinds.client


@pytest.fixture
def inside(fake: FakeDaemon) -> Path:
    """The files of the box."""
    return fake.files.of(WEB)


@pytest.fixture
def host(tmp_path: Path) -> Path:
    path = tmp_path / "host"
    path.mkdir()
    return path


def tree(root: Path) -> dict[str, str | None]:
    """Relative path -> content; None for a directory, "-> target" for a link."""
    found: dict[str, str | None] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        else:
            found[name] = None if path.is_dir() else path.read_text()
    return found


def fill(directory: Path) -> Path:
    (directory / "sub" / "empty").mkdir(parents=True)
    (directory / "a").write_text("A")
    (directory / "sub" / "b").write_text("B" * 100_000)
    (directory / "sub" / "b").chmod(0o750)
    (directory / "link").symlink_to("sub/b")
    return directory


FILLED = {"a": "A", "link": "-> sub/b", "sub": None, "sub/b": "B" * 100_000, "sub/empty": None}


def below(prefix: str) -> dict[str, str | None]:
    return {prefix: None, **{f"{prefix}/{name}": content for name, content in FILLED.items()}}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("a", "new", {"new": "A"}),
        ("a", "there", {"a": "A"}),
        ("a", "there/", {"a": "A"}),
        ("a", "old", {"old": "A"}),
        ("link", "new", {"new": "-> sub/b"}),
        (".", "new", below("new")),
        (".", "there", FILLED),
        ("../filled", "new", below("new")),
        ("../filled/", "new/", below("new")),
        ("../filled", "there", below("filled")),
        ("../filled/.", "there", FILLED),
    ],
)
@pytest.mark.parametrize("direction", ["in", "out"])
def test_what_lands_where(
    client: Client, fake: FakeDaemon, inside: Path, host: Path, direction: str, source: str, target: str,
    expected: dict[str, Any], shape: str,
) -> None:  # fmt: skip
    """The same table in both directions; "there" is a directory, "old" a file."""
    fake.files.shape = shape
    from_root, to_root = (host, inside) if direction == "in" else (inside, host)
    filled = fill(from_root / "filled")
    there = to_root / "area" / "there"
    there.mkdir(parents=True)
    (to_root / "area" / "old").write_text("old")
    said_source = f"/filled/{source}"
    said_target = f"/area/{target}"
    if direction == "in":
        client.copy_in(f"{host}{said_source}", "web", said_target)
    else:
        client.copy_out("web", said_source, f"{host}{said_target}")
    landed = tree(there) if target.startswith("there") else tree(to_root / "area")
    assert {name: content for name, content in landed.items() if name in expected} == expected
    assert set(landed) - set(expected) <= {"there", "old"}
    if "sub/b" in str(expected) and None in expected.values():
        mode = next(path for path in to_root.rglob("b") if path.is_file()).stat().st_mode
        assert stat.S_IMODE(mode) == 0o750
    assert filled.exists()


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("nothing", "new", "no such file"),
        ("a", "new/", "no such directory"),
        (".", "old", "is a file"),
        ("a", "nowhere/new", ""),
    ],
)
def test_what_does_not_fit_is_refused(client: Client, inside: Path, host: Path, source, target, message) -> None:
    fill(host / "filled")
    (inside / "old").write_text("old")
    if target != "nowhere/new":  # whether missing directories are made is the daemon's word
        with pytest.raises(errors.InvalidArgument, match=message):
            client.copy_in(f"{host}/filled/{source}", "web", target)
    fill(inside / "filled")
    (host / "old").write_text("old")
    with pytest.raises((errors.InvalidArgument, errors.NotFound)):
        client.copy_out("web", f"/filled/{source}", f"{host}/{target}")
    assert tree(host) == {"old": "old", **below("filled")}


def test_a_link_is_followed_when_asked(client: Client, inside: Path, host: Path) -> None:
    fill(host / "filled")
    client.copy_in(host / "filled" / "link", "web", "/new", follow_symlinks=True)
    assert (inside / "new").read_text() == "B" * 100_000
    fill(inside / "filled")
    client.copy_out("web", "/filled/link", host / "back", follow_symlinks=True)
    assert (host / "back").read_text() == "B" * 100_000


async def _round_trip(fake: FakeDaemon, host: Path) -> None:
    async with AsyncClient(fake.socket) as client:
        await client.copy_in(host / "filled", "web", "/in")
        await client.copy_out("web", "/in", host / "back")
        with pytest.raises(errors.InvalidArgument):
            await client.copy_in(host / "nothing", "web", "/in")

        async def pieces():
            for piece in packed(str(host / "filled"), "more"):
                yield piece

        await client.put_files("web", "/", pieces())
        async with await client.get_files("web", "/more") as stream:
            content = b"".join([chunk async for chunk in stream])
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        assert len(archive.getnames()) == len(FILLED) + 1


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_copying_with_the_asynchronous_client(fake: FakeDaemon, host: Path, backend: str) -> None:
    fill(host / "filled")
    anyio.run(_round_trip, fake, host, backend=backend)
    assert tree(host / "back") == FILLED


def test_the_archive_is_one_that_tar_understands(host: Path) -> None:
    fill(host / "filled")
    (host / "filled" / ("long" * 50)).write_text("x")
    (host / "filled" / "\udcff").write_text("not UTF-8")
    archive = host / "x.tar"
    archive.write_bytes(b"".join(packed(str(host / "filled"), "f")))
    with tarfile.open(archive) as opened:
        opened.extractall(host / "out", filter="data")
        assert {member.uid for member in opened} == {0}
    assert {**tree(host / "out" / "f"), "\udcff": "not UTF-8"} == tree(host / "filled")


def test_an_upload_that_is_refused_early_tells_the_refusal(client: Client, fake: FakeDaemon) -> None:
    fake.files.refusal = problem(409, "stopped", "box web is stopped")

    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(1 << 20)

    with pytest.raises(errors.Stopped):
        client.put_files("web", "/", endless())


async def _endless_upload(fake: FakeDaemon) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(1 << 20)

    async with AsyncClient(fake.socket) as client:
        with pytest.raises(errors.Stopped):
            await client.put_files("web", "/", endless())


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_an_upload_of_the_asynchronous_client_tells_the_refusal_too(fake: FakeDaemon, backend: str) -> None:
    fake.files.refusal = problem(409, "stopped", "box web is stopped")
    anyio.run(_endless_upload, fake, backend=backend)


@contextmanager
def deaf(path: Path) -> Iterator[None]:
    """A daemon that refuses an upload at once, reads nothing of it, and closes nothing."""
    body = b'{"error":{"message":"it is stopped","code":"stopped"}}'
    over = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 409 Conflict\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            over.wait(60)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


async def _upload_to_the_deaf(path: Path, pieces: Iterator[bytes]) -> None:
    async with AsyncClient(path) as client:
        await client.put_files("web", "/", pieces)


@pytest.mark.parametrize("kind", ["sync", "trio", "asyncio"])
def test_a_refusal_is_heard_while_nobody_reads_the_upload(tmp_path: Path, kind: str) -> None:
    path, pieces = tmp_path / "deaf.sock", iter(lambda: bytes(65536), None)
    with deaf(path), Client(path) as client, pytest.raises(errors.Stopped):  # noqa: PT012
        if kind == "sync":
            client.put_files("web", "/", pieces)
        else:
            anyio.run(_upload_to_the_deaf, path, pieces, backend=kind)


def test_a_failure_of_the_callers_own_source_is_his_and_not_a_lost_connection(client: Client) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x" * 512
        raise OSError("the disk of the caller")

    with pytest.raises(OSError, match="the disk of the caller"):
        client.put_files("web", "/", broken())


# ---- distrust


def hostile(build: Callable[[tarfile.TarFile], None]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        directory = tarfile.TarInfo("d")
        directory.type = tarfile.DIRTYPE
        directory.mode = 0o755
        archive.addfile(directory)
        build(archive)
    return content.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> Callable[[tarfile.TarFile], None]:
    def add(archive: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.mode = kind, target, 0o6777
        content = b"evil" if kind == tarfile.REGTYPE else b""
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))

    return add


def through_link(archive: tarfile.TarFile) -> None:
    entry("d/out", tarfile.SYMTYPE, "../victim")(archive)
    entry("d/out/file")(archive)


def link_twice(archive: tarfile.TarFile) -> None:
    entry("d/x", tarfile.SYMTYPE, "..")(archive)
    entry("d/x/victim", tarfile.DIRTYPE)(archive)
    entry("d/x/victim/file")(archive)


@pytest.mark.parametrize(
    "build",
    [
        entry("../victim/file"), entry("d/../../victim/file"), entry("/etc/boxlited-test-never"), entry("other/file"),
        entry("d/name", tarfile.LNKTYPE, "../victim/precious"), entry("d/name", tarfile.LNKTYPE, "d/never"),
        entry("d/name", tarfile.LNKTYPE, "d/mine"),
        entry("d/null", tarfile.CHRTYPE), entry("d/pipe", tarfile.FIFOTYPE), through_link, link_twice,
        entry("d/present/file"),
    ],
)  # fmt: skip
def test_a_hostile_archive_changes_nothing_outside(
    client: Client, fake: FakeDaemon, host: Path, build: Callable[[tarfile.TarFile], None]
) -> None:
    victim = host / "victim"
    victim.mkdir()
    (victim / "precious").write_text("precious")
    (host / "target" / "d").mkdir(parents=True)
    (host / "target" / "d" / "present").symlink_to(victim)
    (host / "target" / "d" / "mine").write_text("mine")
    fake.replies["GET", "/v1/boxes/web/files"] = (200, [hostile(build)])
    try:
        client.copy_out("web", "/d", host / "target")
    except errors.InvalidArgument:
        pass
    assert tree(victim) == {"precious": "precious"}
    assert (victim / "precious").stat().st_nlink == 1
    assert (host / "target" / "d" / "mine").stat().st_nlink == 1
    assert not list((host / "target").rglob(".boxlited-*"))


def test_set_user_id_does_not_come_out_of_a_box(client: Client, fake: FakeDaemon, host: Path) -> None:
    fake.replies["GET", "/v1/boxes/web/files"] = (200, [hostile(entry("d/su"))])
    client.copy_out("web", "/d", host / "d")
    assert stat.S_IMODE((host / "d" / "su").stat().st_mode) == 0o777


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100, hostile(entry("d/x"))[:1200]])
def test_a_damaged_archive_is_said_to_be_one(client: Client, fake: FakeDaemon, host: Path, content: bytes) -> None:
    fake.replies["GET", "/v1/boxes/web/files"] = (200, [content])
    with pytest.raises(errors.Internal):
        client.copy_out("web", "/d", host / "d")


def test_a_download_that_breaks_leaves_no_half_file(client: Client, fake: FakeDaemon, host: Path) -> None:
    content = b"".join(packed(str(fill(host / "filled") / "sub" / "b"), "b"))
    fake.replies["GET", "/v1/boxes/web/files"] = (200, [content[:50_000], fake_daemon.CUT])
    (host / "b").write_text("old")
    with pytest.raises(errors.BoxlitedError):
        client.copy_out("web", "/b", host / "b")
    assert tree(host) == {"b": "old", **below("filled")}
