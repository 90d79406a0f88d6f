"""Files into and out of real boxes, over the real daemon: what the box sees, and what it is spared."""

from __future__ import annotations

import http.client
import io
import json
import os
import socket
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.integration.daemon_harness import FOREVER, Daemon
from tests.unit.archive_support import directory, entry, link, names_of, tar

MIB = 1 << 20


class Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("boxlited", timeout=120)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(
    daemon: Daemon, method: str, box: str, body: bytes | Iterable[bytes] | None = None, **query: str
) -> tuple[int, bytes]:
    connection = Connection(daemon.socket)
    try:
        headers = {"Content-Type": "application/x-tar"} if body is not None else {}
        target = f"/v1/boxes/{box}/files?{urlencode(query)}"
        connection.request(method, target, body, headers, encode_chunked=not isinstance(body, bytes | None))
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def put(daemon: Daemon, box: str, path: str, body: bytes, **query: str) -> None:
    status, reply = ask(daemon, "PUT", box, body, path=path, **query)
    assert status == 204, reply


def get(daemon: Daemon, box: str, path: str, **query: str) -> bytes:
    status, reply = ask(daemon, "GET", box, path=path, **query)
    assert status == 200, reply
    return reply


def content(data: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        stream = archive.extractfile(name)
        assert stream is not None
        return stream.read()


def refusal(daemon: Daemon, method: str, box: str, body: bytes | None = None, **query: str) -> tuple[int, str, str]:
    status, reply = ask(daemon, method, box, body, **query)
    error: dict[str, Any] = json.loads(reply)["error"]
    return status, error["code"], error["message"]


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon('[engines]\nenabled = ["sandbox", "process"]\n', on_disk=True) as daemon:
        yield daemon.start()


@pytest.fixture(scope="module")
def box(daemon: Daemon) -> str:
    return str(daemon.run(FOREVER)["box_id"])


def test_a_file_goes_in_under_a_new_name_and_comes_out(daemon: Daemon, box: str) -> None:
    put(daemon, box, "/tmp/made/new-name.txt", tar(entry("host.txt", b"hello")))
    assert content(get(daemon, box, "/tmp/made/new-name.txt"), "new-name.txt") == b"hello"
    assert not Path("/tmp/made").exists(), "it went to the host"


def test_a_tree_goes_in_and_comes_out(daemon: Daemon, box: str) -> None:
    put(daemon, box, "/tmp/tree", tar(directory("d"), entry("d/f", b"x", mode=0o755), link("d/l", "f")))
    assert names_of(get(daemon, box, "/tmp/tree/d")) == ["d", "d/f", "d/l"]
    assert names_of(get(daemon, box, "/tmp/tree/d/.")) == [".", "./f", "./l"]


def test_what_exists_is_kept_when_the_client_says_so(daemon: Daemon, box: str) -> None:
    put(daemon, box, "/tmp/kept", tar(entry("f", b"first")))
    answer = refusal(daemon, "PUT", box, tar(entry("f", b"second")), path="/tmp/kept", overwrite="false")
    assert answer[:2] == (409, "already_exists")
    assert "'kept' exists in the box" in answer[2]
    assert content(get(daemon, box, "/tmp/kept"), "kept") == b"first"


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (tar(entry("../../evil", b"x")), "'../../evil' holds '..'"),
        (tar(entry("/evil", b"x")), "'/evil' is absolute"),
        (tar(link("l", "/etc")), "'l' leads to the absolute path"),
        (tar(entry("dev", type=tarfile.CHRTYPE)), "'dev' is a character device"),
        (tar(entry("f", b"x" * 2000))[:1024], "is cut short"),
        (b"garbage" * 200, "not a whole tar"),
    ],
)
def test_a_hostile_archive_is_refused_by_name_and_leaves_nothing(
    daemon: Daemon, box: str, data: bytes, named: str
) -> None:
    status, code, message = refusal(daemon, "PUT", box, data, path="/tmp/hostile/")
    assert (status, code) == (400, "invalid_argument")
    assert named in message
    assert refusal(daemon, "GET", box, path="/tmp/hostile")[:2] == (404, "not_found")
    assert not any("boxlited-put" in name for name in names_of(get(daemon, box, "/tmp")))


def test_a_box_cannot_be_used_to_reach_the_host(daemon: Daemon, box: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of the host")
    assert refusal(daemon, "GET", box, path=str(tmp_path / "secret"))[:2] == (404, "not_found")
    put(daemon, box, f"{tmp_path}/inside", tar(entry("f", b"x")))
    assert os.listdir(tmp_path) == ["secret"]


def test_what_the_box_may_not_write_is_permission_denied(daemon: Daemon, box: str) -> None:
    status, code, message = refusal(daemon, "PUT", box, tar(entry("f", b"x")), path="/usr/bin/evil")
    assert (status, code) == (403, "permission_denied")
    assert "Read-only file system" in message


def test_files_need_a_running_box(daemon: Daemon) -> None:
    created = daemon.create()["box_id"]
    assert refusal(daemon, "PUT", created, tar(entry("f", b"x")), path="/tmp/f")[:2] == (409, "stopped")
    assert refusal(daemon, "GET", created, path="/tmp")[:2] == (409, "stopped")


def test_a_process_box_gets_files_where_it_could_write_itself(daemon: Daemon, tmp_path: Path) -> None:
    box = daemon.run(FOREVER, engine="process")["box_id"]
    put(daemon, box, f"{tmp_path}/f", tar(entry("x", b"y")))
    assert (tmp_path / "f").read_bytes() == b"y"


@pytest.mark.slow
def test_half_a_gigabyte_passes_through_a_small_daemon(daemon: Daemon, tmp_path: Path) -> None:
    size = 512 * MIB
    volume = [{"host_path": str(tmp_path), "guest_path": "/data", "read_only": False}]
    box = str(daemon.run(FOREVER, volumes=volume)["box_id"])
    info = tarfile.TarInfo("big")
    info.size = size

    def body() -> Iterator[bytes]:
        yield info.tobuf()
        for number in range(size // MIB):
            yield number.to_bytes(4, "big") * (MIB // 4)
        yield bytes(1024)

    assert ask(daemon, "PUT", box, body(), path="/data/big")[0] == 204
    assert (tmp_path / "big").stat().st_size == size
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    peak_kib = int(status.partition("VmHWM:")[2].split()[0])
    assert peak_kib < 150 * 1024
