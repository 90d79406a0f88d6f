"""Live subscriptions to the event log: bounded, and a reader that is too slow is cut off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from boxlited.model import Event

BUFFER = 1024


class Broadcast:
    """Delivers each event once to every subscriber, in commit order."""

    def __init__(self) -> None:
        self._channels: set[trio.MemorySendChannel[Event]] = set()

    @contextmanager
    def subscribe(self) -> Iterator[trio.MemoryReceiveChannel[Event]]:
        """The channel ends early when its reader lags by more than BUFFER: resume with `events_since`."""
        send, receive = trio.open_memory_channel[Event](BUFFER)
        self._channels.add(send)
        try:
            yield receive
        finally:
            self._channels.discard(send)
            send.close()
            receive.close()

    def publish(self, event: Event) -> None:
        for channel in list(self._channels):
            try:
                channel.send_nowait(event)
            except (trio.WouldBlock, trio.BrokenResourceError):
                self._channels.discard(channel)
                channel.close()

    def close(self) -> None:
        """End every subscription."""
        for channel in self._channels:
            channel.close()
        self._channels.clear()
