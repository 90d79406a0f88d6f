"""One epoll of pidfds, waited for by one trio task: a death is seen in milliseconds.

Owns which pidfds are watched. Decides nothing: it tells its callback which box's shim
ended. Ten thousand healthy boxes cost nothing here. What the kernel has no room to watch
(fs.epoll.max_user_watches, memory) is tried again at each poll.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from contextlib import suppress

import structlog
import trio

from boxlited.failpoints import hit
from boxlited.model import BoxID

log = structlog.get_logger()


class Watcher:
    """Invariant: one registration for each pidfd; a fired one is unregistered before the callback."""

    def __init__(self, on_death: Callable[[BoxID, int], None]) -> None:
        self._epoll = select.epoll()
        self._boxes: dict[int, BoxID] = {}
        self._not_yet: set[int] = set()
        self._on_death = on_death

    def __len__(self) -> int:
        return len(self._boxes)

    def add(self, box_id: BoxID, pidfd: int) -> None:
        """Watch a pidfd. It must stay open until it fires or is discarded."""
        self._boxes[pidfd] = box_id
        self._register(pidfd)

    def _register(self, pidfd: int) -> None:
        try:
            hit("watch.before_register")
            self._epoll.register(pidfd, select.EPOLLIN)
            self._not_yet.discard(pidfd)
        except OSError as error:
            self._not_yet.add(pidfd)
            log.warning("a shim cannot be watched, it is tried again", box_id=self._boxes[pidfd], error=error.strerror)

    def discard(self, pidfd: int) -> None:
        """Stop watching. Does nothing when it fired before."""
        self._not_yet.discard(pidfd)
        if self._boxes.pop(pidfd, None) is not None:
            with suppress(OSError):
                self._epoll.unregister(pidfd)

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                self.poll()
        finally:
            self._epoll.close()

    def poll(self) -> int:
        """Deliver what has fired so far; also called by the periodic pass, against a lost wake."""
        for pidfd in list(self._not_yet):
            self._register(pidfd)
        fired = self._epoll.poll(0)
        for pidfd, _events in fired:
            box_id = self._boxes.get(pidfd)
            self.discard(pidfd)
            if box_id is not None:
                self._on_death(box_id, pidfd)
        return len(fired)
