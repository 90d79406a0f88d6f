"""Files over HTTP: bodies that stream both ways, refusals before a byte is taken, no clean end of half a tar."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import h11
import pytest
import trio

from boxlited.api import bodies
from boxlited.api.files import first_kind
from boxlited.api.listeners import listen_tcp, listen_unix, read_only_path
from boxlited.api.server import ApiServer
from boxlited.errors import AlreadyExists, NotFound, StorageError
from tests.unit.archive_support import directory, entry, tar
from tests.unit.test_api_support import PATIENCE, Api, MemorySupervisor, Wire, error_of, served, unix_client

URL = "/v1/boxes/web/files"
TAR = {"content-type": "application/x-tar"}
ONE = tar(entry("f", b"content"))


class FilesSupervisor(MemorySupervisor):
    """Takes archives into memory and gives prepared pieces; an exception among them is raised in its place."""

    def __init__(self) -> None:
        super().__init__()
        self.put("web")
        self.received = b""
        self.pieces: list[Any] = [ONE]
        self.failure: Exception | None = None
        self.fail_after = 0
        self.gate: trio.Event | None = None
        self.arrived = trio.Event()
        self.left = trio.Event()
        self.ended: BaseException | None = None

    async def put_files(
        self, ref: str, path: str, overwrite: bool, chunks: AsyncIterator[bytes], *, source_is_dir: bool | None = None
    ) -> None:
        self.get(ref)
        self.asked.append(("put", path, overwrite, source_is_dir))
        try:
            async for chunk in chunks:
                self.received += chunk
                self.arrived.set()
                if self.failure is not None and len(self.received) >= self.fail_after:
                    raise self.failure
                if self.gate is not None:
                    await self.gate.wait()
        except BaseException as error:
            self.ended = error
            raise
        finally:
            self.left.set()

    @asynccontextmanager
    async def get_files(self, ref: str, path: str, follow_symlinks: bool) -> AsyncIterator[AsyncIterator[bytes]]:
        self.get(ref)
        self.asked.append(("get", path, follow_symlinks))
        try:
            async with aclosing(self._pieces()) as pieces:
                yield pieces
        finally:
            self.left.set()

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            if isinstance(piece, trio.Event):
                await piece.wait()
            else:
                await trio.lowlevel.checkpoint()
                yield piece


@pytest.fixture(autouse=True)
def _no_lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "LINGER_SECONDS", 0.2)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with served(tmp_path, supervisor=FilesSupervisor()) as api:
        yield api


@asynccontextmanager
async def limited(directory: Path, max_bytes: int) -> AsyncIterator[Api]:
    supervisor, path = FilesSupervisor(), directory / "b.sock"
    server = ApiServer(supervisor, [listen_unix(path)], grace_seconds=1.0, max_upload_bytes=max_bytes)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve)
            async with unix_client(path) as client:
                yield Api(supervisor, server, client, path)
            server.stop()


async def begin(wire: Wire, target: str, *headers: tuple[str, str]) -> None:
    """Sends the head of a PUT with a chunked body, and no more."""
    head = [("host", "x"), ("transfer-encoding", "chunked"), *headers]
    await wire.stream.send_all(wire.http.send(h11.Request(method="PUT", target=target, headers=head)))


async def more(wire: Wire, data: bytes) -> None:
    await wire.stream.send_all(wire.http.send(h11.Data(data=data)))


# ---- put


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("?path=/a", ("put", "/a", True, None)),
        ("?path=/a%20b/&overwrite=false", ("put", "/a b/", False, None)),
        ("?path=/a&source_is_dir=true", ("put", "/a", True, True)),
        ("?path=/a&source_is_dir=F", ("put", "/a", True, False)),
        ("?path=/a&source_is_dir=perhaps", ("put", "/a", True, None)),
    ],
)
async def test_an_archive_reaches_the_supervisor_whole(api: Api, query: str, asked: tuple[Any, ...]) -> None:
    data = tar(entry("f", b"x" * 3_000_000))
    reply = await api.client.put(URL + query, content=data, headers=TAR)
    assert (reply.status_code, reply.content) == (204, b"")
    assert api.supervisor.asked == [asked]
    assert api.supervisor.received == data


async def test_pieces_arrive_before_the_body_has_ended_and_the_connection_is_used_again(api: Api) -> None:
    async with Wire.open(api.path) as wire:
        await begin(wire, URL + "?path=/a")
        await more(wire, ONE[:512])
        await api.supervisor.arrived.wait()
        assert api.supervisor.received == ONE[:512]
        await more(wire, ONE[512:])
        await wire.stream.send_all(wire.http.send(h11.EndOfMessage()))
        assert (await wire.head()).status_code == 204
        assert await wire.rest() == b""
        wire.http.start_next_cycle()
        assert (await wire.ask("GET", "/healthz")).status_code == 200


async def test_a_box_that_does_not_take_stops_its_client(api: Api) -> None:
    api.supervisor.gate = trio.Event()
    sent = 0
    async with Wire.open(api.path) as wire:
        await begin(wire, URL + "?path=/a")
        with trio.move_on_after(1) as scope:
            while sent < 64 << 20:
                await more(wire, bytes(1 << 16))
                sent += 1 << 16
        assert scope.cancelled_caught, "everything was taken although nobody wanted it"
        assert len(api.supervisor.received) <= 1 << 17
    api.supervisor.gate.set()
    await api.supervisor.left.wait()


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "path is missing"),
        ("?path=", "path is missing"),
        ("?path=a/b", "'a/b' is not absolute"),
        ("?path=/a%00b", "holds a NUL"),
        ("?path=/" + "x" * 4096, "longer than 4096 bytes"),
        ("?path=/a&overwrite=maybe", "overwrite='maybe' is not a boolean"),
    ],
)
async def test_a_query_that_cannot_be_meant_is_refused_and_says_so(api: Api, query: str, said: str) -> None:
    reply = await api.client.put(URL + query, content=ONE, headers=TAR)
    assert said in error_of(reply, 400, "invalid_argument")["message"]
    if "overwrite" not in query:
        assert said in error_of(await api.client.get(URL + query), 400, "invalid_argument")["message"]
    assert api.supervisor.asked == []


@pytest.mark.parametrize("given", ["application/x-tar", "Application/Octet-Stream; x=y", None])
async def test_a_tar_is_taken_under_its_types_and_without_one(api: Api, given: str | None) -> None:
    headers = {} if given is None else {"content-type": given}
    assert (await api.client.put(URL + "?path=/a", content=ONE, headers=headers)).status_code == 204


@pytest.mark.parametrize(
    "headers",
    [{"content-type": "application/json"}, {"content-type": "application/gzip"}, {"content-encoding": "gzip"}],
)
async def test_other_types_are_refused_by_name(api: Api, headers: dict[str, str]) -> None:
    reply = await api.client.put(URL + "?path=/a", content=ONE, headers=headers)
    assert next(iter(headers.values())) in error_of(reply, 415, "invalid_argument")["message"]


async def test_an_archive_that_is_not_there_is_missed(api: Api) -> None:
    reply = await api.client.put(URL + "?path=/a", headers=TAR)
    assert "body is missing" in error_of(reply, 400, "invalid_argument")["message"]
    assert (await api.client.get("/healthz")).status_code == 200


async def test_access_is_asked_for_before_a_byte_is_taken(tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("t" * 20)
    token_file.chmod(0o600)
    path = read_only_path(tmp_path / "b.sock")
    tcp = listen_tcp("127.0.0.1:0", token_file)
    port = tcp.sock.getsockname()[1]
    async with served(tmp_path, listen_unix(path, read_only=True), tcp, supervisor=FilesSupervisor()) as api:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await begin(wire := Wire(stream), URL + "?path=/a")  # and never a body
            assert (await wire.head()).status_code == 401
        async with Wire.open(path) as wire:
            await begin(wire, URL + "?path=/a")
            assert (await wire.head()).status_code == 403
        api.supervisor.is_ready = False
        async with Wire.open(api.path) as wire:
            await begin(wire, URL + "?path=/a")
            assert (await wire.head()).status_code == 503
        assert api.supervisor.asked == []


async def test_a_refusal_in_the_middle_of_a_body_is_read_by_its_client(api: Api) -> None:
    api.supervisor.failure = AlreadyExists("'f' exists in the box")
    async with Wire.open(api.path) as wire:
        await begin(wire, URL + "?path=/a")
        await more(wire, ONE[:512])
        head = await wire.head()
        assert head.status_code == 409
        assert dict(head.headers)[b"connection"] == b"close"
        assert b"'f' exists in the box" in await wire.rest()


async def test_a_box_that_is_not_there_is_said_at_once(api: Api) -> None:
    error_of(await api.client.put("/v1/boxes/none/files?path=/a", content=ONE), 404, "not_found")
    error_of(await api.client.get("/v1/boxes/none/files?path=/a"), 404, "not_found")


async def test_a_client_that_goes_away_ends_the_transfer_with_an_error(api: Api) -> None:
    async with Wire.open(api.path) as wire:
        await begin(wire, URL + "?path=/a")
        await more(wire, ONE[:512])
        await api.supervisor.arrived.wait()
    await api.supervisor.left.wait()
    assert "went away" in str(api.supervisor.ended)


async def test_a_body_that_stalls_is_given_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "STALL_SECONDS", 0.2)
    async with Wire.open(api.path) as wire:
        await begin(wire, URL + "?path=/a")
        await more(wire, ONE[:512])
        assert (await wire.head()).status_code == 400
        assert b"no byte of the body came" in await wire.rest()


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_beyond_the_limit_is_refused(tmp_path: Path, chunked: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield bytes(30_000)

    async with limited(tmp_path, 100_000) as api:
        content = pieces() if chunked else bytes(150_000)
        reply = await api.client.put(URL + "?path=/a", content=content)
        assert "larger than files.max_bytes = 100000" in error_of(reply, 429, "resource_exhausted")["message"]
        assert bool(api.supervisor.received) is chunked
        assert (await api.client.put(URL + "?path=/a", content=bytes(100_000))).status_code == 204


# ---- get


@pytest.mark.parametrize(
    ("data", "is_dir"),
    [
        (ONE, "false"),
        (tar(directory("d"), entry("d/f", b"x")), "true"),
        (tar(entry("n" * 300, b"x")), "false"),
        (tar(directory("é" * 300), format=2), "true"),
    ],
)
@pytest.mark.parametrize("size", [100, 700, 1 << 20])
async def test_a_tar_comes_as_it_is_and_its_kind_is_in_the_head(api: Api, data: bytes, is_dir: str, size: int) -> None:
    api.supervisor.pieces = [data[at : at + size] for at in range(0, len(data), size)]
    reply = await api.client.get(URL + "?path=/a&follow_symlinks=true")
    assert (reply.status_code, reply.content) == (200, data)
    assert reply.headers["content-type"] == "application/x-tar"
    assert reply.headers["x-boxlite-source-is-dir"] == is_dir
    assert api.supervisor.asked == [("get", "/a", True)]


async def test_an_error_before_the_first_byte_is_an_ordinary_reply_however_late(api: Api) -> None:
    late = trio.Event()
    api.supervisor.pieces = [late, NotFound("'/a' does not exist in the box")]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_set_later, late)
        error_of(await api.client.get(URL + "?path=/a"), 404, "not_found")
    api.supervisor.pieces = []
    error_of(await api.client.get(URL + "?path=/a"), 500, "internal")


async def _set_later(event: trio.Event) -> None:
    await trio.sleep(0.2)  # longer than the head of another stream would wait
    event.set()


@pytest.mark.parametrize("failure", [StorageError("the disk broke"), RuntimeError("a bug")])
async def test_an_error_in_the_middle_cuts_the_connection(api: Api, failure: Exception) -> None:
    api.supervisor.pieces = [ONE[:1024], failure]
    async with Wire.open(api.path) as wire:
        assert (await wire.ask("GET", URL + "?path=/a")).status_code == 200
        with pytest.raises(h11.RemoteProtocolError, match="closed"):
            await wire.rest()


async def test_a_server_that_stops_never_ends_half_a_tar_cleanly(api: Api) -> None:
    api.supervisor.pieces = [ONE[:1024], trio.Event()]
    async with Wire.open(api.path) as wire:
        assert (await wire.ask("GET", URL + "?path=/a")).status_code == 200
        assert await wire.piece() == ONE[:1024]
        api.server.stop()
        with pytest.raises(h11.RemoteProtocolError, match="closed"):
            await wire.rest()


async def test_a_client_that_goes_away_ends_the_packing(api: Api) -> None:
    api.supervisor.pieces = [ONE[:1024], trio.Event()]
    async with Wire.open(api.path) as wire:
        await wire.ask("GET", URL + "?path=/a")
    await api.supervisor.left.wait()


async def test_a_head_request_packs_nothing(api: Api) -> None:
    assert (await api.client.head(URL + "?path=/a")).status_code == 200
    assert api.supervisor.asked == []


async def test_the_document_says_what_goes_in_and_out(api: Api) -> None:
    routes = (await api.client.get("/v1/openapi.json")).json()["paths"]["/v1/boxes/{ref}/files"]
    assert list(routes["put"]["requestBody"]["content"]) == ["application/x-tar"]
    assert {"204", "400", "409", "415", "429"} <= set(routes["put"]["responses"])
    assert list(routes["get"]["responses"]["200"]["content"]) == ["application/x-tar"]


@pytest.mark.parametrize("size", [0, 1, 511])
def test_the_kind_of_too_little_is_not_known_yet(size: int) -> None:
    assert first_kind(ONE[:size]) is None


@pytest.mark.parametrize("digits", [b"-0000001000", b"+0000001000", b"zz", b"0_7", b"\xff", b"9"])
async def test_a_tar_of_a_box_that_lies_about_a_size_is_refused_and_does_not_hang(api: Api, digits: bytes) -> None:
    """A size below nothing would lead back to the same header for ever."""
    head = bytearray(512)
    head[156:157], head[124 : 124 + len(digits)] = b"x", digits
    api.supervisor.pieces = [bytes(head) + bytes(512)]
    error_of(await api.client.get(URL + "?path=/a"), 500, "internal")


async def test_a_tar_of_a_box_that_never_comes_to_an_entry_is_not_gathered(api: Api) -> None:
    head = bytearray(512)
    head[156:157], head[124:136] = b"x", b"77777777777\0"
    api.supervisor.pieces = [bytes(head), *[bytes(1024)] * 64, trio.Event()]
    error_of(await api.client.get(URL + "?path=/a"), 500, "internal")
