"""The service manager's protocol against a real socket: heard, bounded, and never an error of the daemon."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from boxlited.api import listeners
from boxlited.api.listeners import READ_ONLY_NAME, inherited
from boxlited.errors import StartupError
from boxlited.sdnotify import Notifier, watchdog
from boxlited.shim.engines.process import ProcessEngine
from boxlited.shim.engines.sandbox import SandboxEngine
from tests.unit.limits import no_free_descriptor

FAR_FD = 600


class Manager:
    """The service manager's end of the socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(address.replace("@", "\0", 1))
        self.sock.setblocking(False)

    def heard(self) -> list[str]:
        messages = []
        while True:
            try:
                messages.append(self.sock.recv(65536).decode())
            except BlockingIOError:
                return messages


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@boxlited-test/{os.getpid()}/{tmp_path.name}"
    one = Manager(address)
    yield one
    one.sock.close()


def notifier(address: str, **variables: str) -> Notifier:
    return Notifier.from_env({"NOTIFY_SOCKET": address, **variables})


def test_each_notification_is_one_datagram_of_assignments(manager: Manager) -> None:
    to_manager = notifier(manager.address)
    to_manager.ready()
    to_manager.status("12 boxes")
    to_manager.stopping("live on")
    assert manager.heard() == [
        f"READY=1\nMAINPID={os.getpid()}\nSTATUS=Serving boxes",
        "STATUS=12 boxes",
        "STOPPING=1\nSTATUS=Stopping; boxes live on",
    ]


def test_a_status_is_one_line_whatever_it_says(manager: Manager) -> None:
    to_manager = notifier(manager.address)
    to_manager.status("a box\nSTOPPING=1\r\nMAINPID=1\x85WATCHDOG=trigger")
    to_manager.status("\udcff")
    first, second = manager.heard()
    assert first == "STATUS=a box STOPPING=1 MAINPID=1 WATCHDOG=trigger"
    assert second == "STATUS=?"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}])
async def test_without_a_manager_nothing_is_done(environ: dict[str, str]) -> None:
    silent = Notifier.from_env(environ)
    with capture_logs() as logs:
        silent.ready()
        silent.stopping("live on")
        with trio.fail_after(1):
            await watchdog(silent, lambda: pytest.fail("nobody asked"))
    assert logs == []


@pytest.mark.parametrize("address", ["/nonexistent/notify", "@nobody-listens-here", "relative", "/" + "x" * 300, "@"])
def test_a_notification_that_nobody_takes_is_a_warning_and_no_more(address: str) -> None:
    with capture_logs() as logs:
        notifier(address).ready()
    assert [entry["log_level"] for entry in logs] == ["warning"]


def test_a_manager_that_does_not_read_blocks_nobody(manager: Manager) -> None:
    limit = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
    to_manager = notifier(manager.address)
    with capture_logs() as logs:
        for _ in range(limit + 2):
            to_manager.send("WATCHDOG=1")
    assert logs
    assert 1 <= len(manager.heard()) <= limit + 1


def test_without_a_free_descriptor_a_notification_is_lost_and_no_more(manager: Manager) -> None:
    to_manager = notifier(manager.address)
    with no_free_descriptor(), capture_logs() as logs:
        to_manager.send("WATCHDOG=1")
    assert [entry["log_level"] for entry in logs] == ["warning"]
    to_manager.send("WATCHDOG=1")
    assert manager.heard() == ["WATCHDOG=1"]


# ---- watchdog


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "77"}, 1.5),
        ({"WATCHDOG_USEC": "1"}, 1e-6),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "78"}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": ""}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "18446744073709551615"}, None),  # USEC_INFINITY
        *[({"WATCHDOG_USEC": text}, None) for text in ("", "-1", "1.5", "1e6", " 1", "x", "²", "٣", "9" * 5000)],
    ],
)
def test_how_often_the_manager_wants_to_hear(variables: dict[str, str], seconds: float | None) -> None:
    assert Notifier.from_env(variables, pid=77).watchdog_seconds == seconds


@given(st.text(max_size=30), st.text(max_size=5))
def test_any_watchdog_variables_are_an_interval_or_none(microseconds: str, pid: str) -> None:
    seconds = Notifier.from_env({"WATCHDOG_USEC": microseconds, "WATCHDOG_PID": pid}, pid=7).watchdog_seconds
    assert seconds is None or (seconds > 0 and pid == "7")


async def test_the_watchdog_pings_three_times_an_interval_while_healthy(
    manager: Manager, autojump_clock: trio.testing.MockClock
) -> None:
    to_manager = notifier(manager.address, WATCHDOG_USEC="10000000")
    healthy = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(watchdog, to_manager, lambda: healthy))
        await trio.sleep(29)
        assert manager.heard() == ["WATCHDOG=1"] * 9  # at 0, 3.3, 6.7, ... 26.7
        healthy = False
        await trio.sleep(30)
        assert manager.heard() == []
        healthy = True
        await trio.sleep(3)
        assert manager.heard() == ["WATCHDOG=1"]
        nursery.cancel_scope.cancel()


# ---- inherited sockets


@pytest.fixture
def first_fd(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The protocol's descriptors begin at 3, which belong to the test runner: ours begin far above."""
    monkeypatch.setattr(listeners, "_FIRST_INHERITED_FD", FAR_FD)
    yield FAR_FD
    for fd in range(FAR_FD, FAR_FD + 4):
        try:
            os.close(fd)
        except OSError:
            continue  # taken over, and closed by its listener


def passed(*sockets: socket.socket) -> dict[str, str]:
    """Hand sockets on as a service manager does: inheritable, from the first descriptor on."""
    for number, sock in enumerate(sockets):
        os.dup2(sock.fileno(), FAR_FD + number)
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": "a:b:c"}


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


@pytest.mark.parametrize("names", [None, "", "boxlited.socket:boxlited-ro.socket", ":::", "\udcff"])
def test_sockets_are_told_apart_by_their_paths_and_not_by_names(
    tmp_path: Path, first_fd: int, names: str | None
) -> None:
    with listening(tmp_path / READ_ONLY_NAME) as one, listening(tmp_path / "b.sock") as two:
        environ = {**passed(one, two), **({} if names is None else {"LISTEN_FDNAMES": names})}
        found = inherited(environ)
        assert [(listener.sock.fileno(), listener.read_only) for listener in found] == [
            (first_fd, True),
            (first_fd + 1, False),
        ]
        assert not any(os.get_inheritable(listener.sock.fileno()) for listener in found)
        for listener in found:
            listener.close()
        assert stat.S_ISSOCK((tmp_path / "b.sock").lstat().st_mode)  # the manager's, not ours to unlink


def bad_environments() -> list[Mapping[str, str]]:
    mine = str(os.getpid())
    counts = ("", "0", "-1", "+1", "1.0", " 1", "x", "²", "٣", "9" * 5000)
    return [
        {"LISTEN_FDS": "1"},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
        {"LISTEN_PID": "", "LISTEN_FDS": "1"},
        *({"LISTEN_PID": mine, "LISTEN_FDS": count} for count in counts),
    ]


@pytest.mark.parametrize("environ", bad_environments())
def test_no_socket_is_taken_unless_a_number_of_them_is_meant_for_us(
    tmp_path: Path, first_fd: int, environ: Mapping[str, str]
) -> None:
    with listening(tmp_path / "b.sock") as sock:
        passed(sock)
        assert inherited(environ) == []
        assert os.get_inheritable(first_fd)


@pytest.mark.parametrize("count", ["2", "999999999"])
def test_more_sockets_than_were_passed_is_a_start_up_error(tmp_path: Path, first_fd: int, count: str) -> None:
    with listening(tmp_path / "b.sock") as sock:
        environ = {**passed(sock), "LISTEN_FDS": count}
        with pytest.raises(StartupError, match=f"descriptor {first_fd + 1} cannot be used"):
            inherited(environ)


# ---- what boxes get of it


@pytest.mark.parametrize("engine", [ProcessEngine(), SandboxEngine()])
def test_a_workload_gets_nothing_of_the_service_manager(
    engine: ProcessEngine | SandboxEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("BOXLITED_HOME", "/secret")
    spec: dict[str, Any] = {
        "argv": ["true"], "env": {"A": "b"}, "working_dir": None, "user": None, "tty": False, "hostname": "h",
        "rootfs": {"kind": "host"}, "volumes": [], "network": False, "capabilities": {"add": [], "drop": []},
        "bwrap": "/bwrap", "paths": {key: str(tmp_path / key) for key in ("tmp", "upper", "work", "etc")},
    }  # fmt: skip
    _argv, env = engine.command(spec, 5)
    assert env["A"] == "b"
    assert not [name for name in env if name.startswith(("NOTIFY", "WATCHDOG", "LISTEN", "BOXLITED"))]
