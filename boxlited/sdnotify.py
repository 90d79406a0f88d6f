"""The service manager's protocol: readiness, watchdog, stopping. No dependency.

Says nothing when no manager listens (`NOTIFY_SOCKET` unset). A lost notification is never
an error of the daemon.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, MutableMapping

import structlog
import trio

FOREVER_USEC = 2**64 - 1  # how the service manager writes "never"
MAX_USEC_DIGITS = 20
PINGS_PER_INTERVAL = 3  # the manager asks for two; one may be late

# what a service manager tells one process about itself, and none of its children
PERSONAL = (
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
)

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

    def stopping(self, boxes: str) -> None:
        """`boxes` says what becomes of them."""
        self.send(f"STOPPING=1\nSTATUS=Stopping; boxes {boxes}")

    def status(self, text: str) -> None:
        """One line for people; a line break in it would begin another assignment."""
        self.send(f"STATUS={' '.join(text.split())}")

    def send(self, message: str) -> None:
        """One datagram, never blocking; lost where no descriptor is free or nobody listens."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        try:
            with socket.socket(socket.AF_UNIX, kind) as sock:
                sock.sendto(message.encode(errors="replace"), address)
        except OSError as error:
            log.warning("the service manager did not take a notification", error=str(error))


def _watchdog_seconds(environ: Mapping[str, str], pid: int) -> float | None:
    """WATCHDOG_USEC, when it is meant for this process and is a number that the manager can mean."""
    text = environ.get("WATCHDOG_USEC", "")
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_USEC_DIGITS):
        return None
    microseconds = int(text)
    if not 0 < microseconds < FOREVER_USEC or environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return microseconds / 1e6


def forget_manager(environ: MutableMapping[str, str] = os.environ) -> None:
    """Take out of the environment what is ours alone. Call once it was read, before anything is started."""
    for name in PERSONAL:
        environ.pop(name, None)


async def watchdog(notifier: Notifier, healthy: Callable[[], bool]) -> None:
    """Ping three times an interval while `healthy()`; a hung event loop cannot, and is restarted."""
    if notifier.watchdog_seconds is None:
        return
    while True:
        if healthy():
            notifier.send("WATCHDOG=1")
        await trio.sleep(notifier.watchdog_seconds / PINGS_PER_INTERVAL)
