"""A poll loop for a process with one thread: descriptors, and times to wake at. Standard library only."""

import heapq
import select
import time
from collections.abc import Callable

Handler = Callable[[int], None]
MAX_SLEEP_SECONDS = 3600.0
MANY_TIMERS = 256


class Timer:
    __slots__ = ("call", "when")

    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when = when
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None

    def __lt__(self, other: "Timer") -> bool:
        return self.when < other.when


class Loop:
    """`run` until `stop`. A handler gets the events of its descriptor; it may forget any descriptor."""

    __slots__ = ("_handlers", "_many", "_poll", "_stopped", "_timers")

    def __init__(self) -> None:
        self._poll = select.poll()
        self._handlers: dict[int, Handler] = {}
        self._timers: list[Timer] = []
        self._many = MANY_TIMERS
        self._stopped = False

    def watch(self, fd: int, events: int, handler: Handler) -> None:
        self._handlers[fd] = handler
        self._poll.register(fd, events)

    def change(self, fd: int, events: int) -> None:
        """0 waits for nothing but the end of the other side, which cannot be turned off."""
        self._poll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Call before the descriptor is closed: its number is soon another's."""
        if self._handlers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        timer = Timer(time.monotonic() + seconds, call)
        heapq.heappush(self._timers, timer)
        if len(self._timers) > self._many:
            self._drop_cancelled()
        return timer

    def _drop_cancelled(self) -> None:
        """Cancelled long before its time, a timer would stay until then."""
        self._timers = [timer for timer in self._timers if timer.call is not None]
        heapq.heapify(self._timers)
        self._many = max(MANY_TIMERS, 2 * len(self._timers))

    def stop(self) -> None:
        self._stopped = True

    def run(self) -> None:
        while not self._stopped:
            self._turn()
            if self._timers:
                self._ring()

    def _turn(self) -> None:
        found = self._poll.poll(self._milliseconds() if self._timers else None)
        ready = [(fd, events, self._handlers.get(fd)) for fd, events in found]
        for fd, events, handler in ready:  # a handler before may have closed this one, and opened its number anew
            if handler is not None and self._handlers.get(fd) is handler:
                handler(events)

    def _milliseconds(self) -> float | None:
        while self._timers and self._timers[0].call is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        return min(MAX_SLEEP_SECONDS, max(0.0, self._timers[0].when - time.monotonic())) * 1000 + 1

    def _ring(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0].when <= now:
            timer = heapq.heappop(self._timers)
            if timer.call is not None:
                timer.call()
