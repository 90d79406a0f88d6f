"""The output of one execution: the newest bytes, bounded, for whoever attaches now or again.

Positions count payload bytes of both channels from the beginning. `acked` says up to where the
output was delivered: what lies before it may be forgotten without loss, but for a part that is kept for
a client whose connection broke behind the delivery. Pure. Standard library only.
"""

from collections import deque

MERGE_BYTES = 32 * 1024
CHUNK_COST = 128  # what a chunk costs beside its bytes: many tiny ones must not escape the bound


class Ring:
    __slots__ = ("_chunks", "_limit", "_undelivered", "_weight", "acked", "end", "lost", "start")

    def __init__(self, limit: int, kept: int = 0) -> None:
        """`kept`, a part of `limit`, is for what was delivered: the rest takes what was not."""
        self._limit = limit
        self._undelivered = limit - kept
        self._chunks: deque[tuple[int, bytearray]] = deque()
        self._weight = 0
        self.start = 0  # of what is kept
        self.end = 0
        self.acked = 0
        self.lost = 0  # bytes that were forgotten before anyone had them

    def room(self) -> int:
        """How many bytes can be taken without forgetting what was not delivered."""
        return max(0, self._undelivered - self._owed() - CHUNK_COST)

    def make_room(self, wanted: int) -> None:
        """Forget the oldest, delivered or not, until so much fits in."""
        while self._chunks and self.room() < wanted:
            self._forget_oldest()

    def append(self, channel: int, data: bytes) -> None:
        """Take no more than `room` bytes; of what was delivered the oldest goes."""
        if self._chunks and self._chunks[-1][0] == channel and len(self._chunks[-1][1]) + len(data) <= MERGE_BYTES:
            self._chunks[-1][1].extend(data)
            self._weight += len(data)
        else:
            self._chunks.append((channel, bytearray(data)))
            self._weight += len(data) + CHUNK_COST
        self.end += len(data)
        self.shrink(self._limit)

    def acknowledge(self, position: int) -> None:
        """Everything before `position` has arrived."""
        self.acked = max(self.acked, min(position, self.end))

    def shrink(self, keep: int) -> None:
        """Keep what was not delivered, and of the rest so many bytes."""
        while self._chunks and self._weight > keep and self.start + len(self._chunks[0][1]) <= self.acked:
            self._forget_oldest()

    def read(self, position: int, most: int) -> tuple[int, bytes] | None:
        """(channel, bytes) from `position` on, of one channel; None at the end. `position` is not before `start`."""
        start = self.start
        for channel, chunk in self._chunks:
            if position < start + len(chunk):
                offset = position - start
                with memoryview(chunk) as view:
                    return channel, bytes(view[offset : offset + most])
            start += len(chunk)
        return None

    def _forget_oldest(self) -> None:
        _channel, chunk = self._chunks.popleft()
        self._weight -= len(chunk) + CHUNK_COST
        self.start += len(chunk)
        if self.start > self.acked:
            self.lost += self.start - self.acked
            self.acked = self.start

    def _owed(self) -> int:
        """The weight of the chunks that were not delivered whole."""
        delivered, start = 0, self.start
        for _channel, chunk in self._chunks:
            start += len(chunk)
            if start > self.acked:
                break
            delivered += len(chunk) + CHUNK_COST
        return self._weight - delivered
