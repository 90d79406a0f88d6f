"""The service manager's protocol: readiness, watchdog, stopping. No dependency.

Says nothing when no manager listens (`NOTIFY_SOCKET` unset). A lost notification is never
an error of the daemon.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping

import structlog
import trio

log = structlog.get_logger()


class Notifier:
    """`watchdog_seconds` is how often the manager wants to hear from us, or None."""

    def __init__(self, address: str | None, watchdog_seconds: float | None = None) -> None:
        self._address = address
        self.watchdog_seconds = watchdog_seconds

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ, pid: int | None = None) -> Notifier:
        return cls(environ.get("NOTIFY_SOCKET"), _watchdog_seconds(environ, pid or os.getpid()))

    def ready(self) -> None:
        self.send(f"READY=1\nMAINPID={os.getpid()}\nSTATUS=Serving boxes")

    def stopping(self) -> None:
        self.send("STOPPING=1\nSTATUS=Stopping; boxes live on")

    def status(self, text: str) -> None:
        self.send(f"STATUS={text}")

    def send(self, message: str) -> None:
        """One datagram, never blocking."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sock:
            try:
                sock.sendto(message.encode(), address)
            except OSError as error:
                log.warning("the service manager did not take a notification", error=str(error))


def _watchdog_seconds(environ: Mapping[str, str], pid: int) -> float | None:
    """WATCHDOG_USEC, when it is meant for this process."""
    microseconds = environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdigit() or int(microseconds) == 0:
        return None
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(microseconds) / 1e6


async def watchdog(notifier: Notifier, healthy: Callable[[], bool]) -> None:
    """Ping at half the interval while `healthy()`; a hung event loop cannot, and is restarted."""
    if notifier.watchdog_seconds is None:
        return
    while True:
        if healthy():
            notifier.send("WATCHDOG=1")
        await trio.sleep(notifier.watchdog_seconds / 2)
