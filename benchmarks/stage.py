"""The daemon under measurement, a client that costs little, and figures.

Polls with gaps of 0.1 ms: on two cores a poller that never sleeps takes the processor from
what it measures.
"""

from __future__ import annotations

import json
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil

from tests.integration.daemon_harness import Daemon

POLL_SECONDS = 0.0001
CONFIG = "log_level = 'warning'\n"
T = TypeVar("T")


class Wire:
    """HTTP/1.1 over one kept-alive unix connection, by hand: a request out, a reply in."""

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.connect(str(path))
        self._buffer = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def call(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        self.send(method, path, body)
        return self.receive()

    def send(self, method: str, path: str, body: object = None) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        self._sock.sendall(
            f"{method} {path} HTTP/1.1\r\nHost: b\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content
        )

    def receive(self) -> tuple[int, bytes]:
        while b"\r\n\r\n" not in self._buffer:
            self._receive()
        head, _, rest = self._buffer.partition(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line[15:])
        self._buffer = rest
        while len(self._buffer) < length:
            self._receive()
        answer, self._buffer = self._buffer[:length], self._buffer[length:]
        return int(head[9:12]), answer

    def _receive(self) -> None:
        chunk = self._sock.recv(1 << 20)
        if not chunk:
            raise ConnectionError("the daemon closed the connection")
        self._buffer += chunk

    def json(self, method: str, path: str, body: object = None) -> Any:
        status, answer = self.call(method, path, body)
        if status >= 300:
            raise RuntimeError(f"{method} {path}: {status} {answer[:300]!r}")
        return json.loads(answer) if answer else None


@contextmanager
def daemon() -> Iterator[Daemon]:
    with Daemon(CONFIG) as one:
        yield one.start()


def milliseconds(samples: list[float]) -> dict[str, float]:
    """Median, p99 and count of samples in seconds."""
    ordered = sorted(samples)
    return {
        "median_ms": round(statistics.median(ordered) * 1e3, 3),
        "p99_ms": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1e3, 3),
        "n": len(ordered),
    }


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def until(look: Callable[[], T | None], seconds: float = 30.0) -> T:
    """The last look is after the deadline: one who did not run for so long has seen nothing of what came."""
    end = time.monotonic() + seconds
    while True:
        is_last = time.monotonic() > end
        if value := look():
            return value
        if is_last:
            raise TimeoutError("what was waited for did not come")
        time.sleep(POLL_SECONDS)


def pss_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise RuntimeError("no Pss in smaps_rollup")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, ended threads included; in steps of a clock tick (10 ms)."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
