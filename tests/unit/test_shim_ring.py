"""The ring of an execution's output against a plain model that forgets nothing."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from boxlited.shim.ring import CHUNK_COST, MERGE_BYTES, Ring

LIMIT = 256 * 1024


class RingAgainstModel(RuleBasedStateMachine):
    """`everything` is (channel, byte) for each position from the beginning."""

    @initialize(limit=st.sampled_from([4096, 65536, LIMIT]), share=st.sampled_from([0, 4]))
    def begin(self, limit: int, share: int) -> None:
        self.limit = limit
        self.kept = limit // share if share else 0
        self.ring = Ring(limit, self.kept)
        self.everything: list[tuple[int, int]] = []
        self.acked = 0
        self.lost = 0
        self.counter = 0

    def _data(self, size: int) -> bytes:
        self.counter += 1
        return bytes((self.counter + n) % 251 for n in range(size))

    def _append(self, channel: int, size: int) -> None:
        size = min(size, self.ring.room())
        if size == 0:
            return
        lost, acked = self.ring.lost, self.ring.acked
        data = self._data(size)
        self.ring.append(channel, data)
        self.everything += [(channel, byte) for byte in data]
        assert (self.ring.lost, self.ring.acked) == (lost, acked), "an append within the room forgot what nobody had"

    @rule(channel=st.sampled_from([1, 2]), size=st.one_of(st.integers(1, 5), st.integers(1, 3 * MERGE_BYTES)))
    def append(self, channel: int, size: int) -> None:
        self._append(channel, size)

    @rule(count=st.integers(1, 300))
    def append_tiny_pieces_in_turn(self, count: int) -> None:
        for number in range(count):
            self._append(1 + number % 2, 1)

    @rule(back=st.integers(0, 2 * LIMIT))
    def acknowledge(self, back: int) -> None:
        position = max(0, len(self.everything) - back)
        self.ring.acknowledge(position)
        self.acked = max(self.acked, position)

    @rule()
    def acknowledge_what_never_was(self) -> None:
        self.ring.acknowledge(len(self.everything) + 1000)
        self.acked = len(self.everything)

    @rule(wanted=st.integers(1, LIMIT))
    def make_room(self, wanted: int) -> None:
        self.ring.make_room(wanted)
        assert self.ring.room() >= min(wanted, self.limit - self.kept - CHUNK_COST)
        if self.ring.start > self.acked:
            self.lost += self.ring.start - self.acked
            self.acked = self.ring.start

    @rule(keep=st.integers(0, LIMIT))
    def shrink(self, keep: int) -> None:
        self.ring.shrink(keep)
        assert self.ring.start <= self.acked, "shrinking forgot what nobody had"

    @rule(place=st.integers(0, 2**31), most=st.integers(1, LIMIT))
    def read(self, place: int, most: int) -> None:
        ring = self.ring
        position = ring.start + place % (ring.end - ring.start + 1)
        found = ring.read(position, most)
        if position == ring.end:
            assert found is None
            return
        assert found is not None
        channel, data = found
        assert 1 <= len(data) <= most
        assert [(channel, byte) for byte in data] == self.everything[position : position + len(data)]

    @invariant()
    def agrees(self) -> None:
        ring = self.ring
        assert ring.end == len(self.everything)
        assert ring.start <= ring.acked <= ring.end
        assert ring.acked == self.acked
        assert ring.lost == self.lost

    @invariant()
    def is_bounded(self) -> None:
        """With what each piece costs beside its bytes."""
        chunks = list(self.ring._chunks)
        weight = sum(len(data) + CHUNK_COST for _channel, data in chunks)
        assert weight == self.ring._weight
        assert weight <= max(self.limit, MERGE_BYTES + CHUNK_COST)
        assert all(data for _channel, data in chunks)


RingAgainstModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestRing = RingAgainstModel.TestCase


def drained(ring: Ring, position: int) -> bytes:
    data = b""
    while (found := ring.read(position, 7)) is not None:
        data += found[1]
        position += len(found[1])
    return data


def test_tiny_pieces_of_two_channels_are_bounded_by_what_they_cost() -> None:
    ring = Ring(64 * 1024)
    taken = 0
    while ring.room() > 0:
        ring.append(1 + taken % 2, b"x")
        taken += 1
    assert taken <= 64 * 1024 // (CHUNK_COST + 1)
    ring.make_room(1000)
    assert 0 < ring.lost <= 16
    assert len(drained(ring, ring.start)) == taken - ring.lost


def test_what_was_delivered_is_kept_beside_a_full_ring() -> None:
    """A client whose connection broke behind the delivery goes on from what it has."""
    ring = Ring(64 * 1024, 16 * 1024)
    written = b""
    for number in range(100):
        while ring.room() > 0:
            data = bytes([number]) * min(ring.room(), 1000)
            ring.append(1, data)
            written += data
        ring.acknowledge(ring.acked + 3000)
    while ring.room() > 0:
        ring.append(1, b"x" * min(ring.room(), 1000))
    assert ring.acked - ring.start >= 8 * 1024  # whole pieces are forgotten, none of them larger than half of it
    assert ring.lost == 0
