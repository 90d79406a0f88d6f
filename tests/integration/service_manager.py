"""Plays the service manager: a notification socket, and listening sockets that are handed over.

The listening sockets belong to the test for as long as it likes: a daemon comes and goes, and
whoever connects meanwhile waits in the queue.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.integration.daemon_harness import Daemon

WAIT_SECONDS = 30.0
REQUEST_SECONDS = 20.0

# The protocol wants the descriptors at 3 and up, and the pid of the very process that takes them.
LAUNCHER = """
import fcntl, os, sys
fds = [int(number) for number in sys.argv[1].split(",") if number]
copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in fds]
for fd in fds:
    os.close(fd)
for number, copy in enumerate(copies, 3):
    os.dup2(copy, number)
if fds:
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)))
os.execv(sys.argv[2], sys.argv[2:])
"""


class NotifySocket:
    """Hears what the daemon says of itself. `address` as in NOTIFY_SOCKET: a path, or @name."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def heard(self) -> list[str]:
        """What came so far and was not read yet; does not wait."""
        self._socket.setblocking(False)
        found = []
        while True:
            try:
                found.append(self._socket.recv(65536).decode())
            except BlockingIOError:
                return found

    def next(self, seconds: float = WAIT_SECONDS) -> str | None:
        """The next message, or None when there is none for so long."""
        self._socket.settimeout(seconds)
        try:
            return self._socket.recv(65536).decode()
        except TimeoutError:
            return None

    def until(self, text: str) -> str:
        """Read on until a message that holds `text`."""
        end = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < end:
            message = self.next(max(0.01, end - time.monotonic()))
            if message is not None and text in message:
                return message
        raise AssertionError(f"the daemon never said {text!r}")

    def close(self) -> None:
        self._socket.close()


class ManagedDaemon(Daemon):
    """A daemon that is started as a unit is. `hand_over` before it is launched."""

    def __init__(self, config: str | None = None) -> None:
        super().__init__(config)
        self.handed: list[socket.socket] = []
        self.environment: dict[str, str] = {}
        self.notify: NotifySocket | None = None

    def listen_notify(self, address: str) -> NotifySocket:
        self.notify = NotifySocket(address)
        self.environment["NOTIFY_SOCKET"] = address
        return self.notify

    def hand_over(self, path: Path, name: str = "unknown", mode: int = 0o660) -> socket.socket:
        """Bind and listen at `path` as a socket unit does; every daemon from now on gets it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(str(path))
        path.chmod(mode)
        sock.listen(512)
        names = self.environment.get("LISTEN_FDNAMES")
        self.environment["LISTEN_FDNAMES"] = name if names is None else f"{names}:{name}"
        self.handed.append(sock)
        return sock

    def launch(self, env: Mapping[str, str] | None = None, arguments: list[str] | None = None) -> None:
        fds = [sock.fileno() for sock in self.handed]
        argv = [sys.executable, "-c", LAUNCHER, ",".join(map(str, fds))]
        argv += [sys.executable, "-m", "boxlited.cli.boxlited", "serve", "--home", str(self.home)]
        argv += ["--socket", str(self.socket), "--log-format", "json", *(arguments or [])]
        if self.config is not None:
            argv += ["--config", str(self.config)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=fds,
                env={**os.environ, **self.environment, **(env or {})},
            )

    def close(self) -> None:
        super().close()
        for sock in self.handed:
            sock.close()
        if self.notify is not None:
            self.notify.close()


def send_request(path: Path, target: str) -> socket.socket:
    """Connect and ask, and do not wait for the answer."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(REQUEST_SECONDS)
    sock.connect(str(path))
    sock.sendall(f"GET {target} HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n".encode())
    return sock


def answer_of(sock: socket.socket) -> Any:
    reply = http.client.HTTPResponse(sock)
    reply.begin()
    assert reply.status == 200
    return json.loads(reply.read())


def is_silent(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        sock.recv(1)
    except BlockingIOError:
        return True
    finally:
        sock.settimeout(REQUEST_SECONDS)
    return False
