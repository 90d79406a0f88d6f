"""Frames of the control channel: whatever way the bytes arrive, the same frames, and nothing else gets through."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxlited.shim.frames import HEADER, MAX_PAYLOAD, BadFrame, Decoder, Kind, frame, head

FRAMES = st.lists(st.tuples(st.sampled_from(list(Kind)), st.binary(max_size=300)), max_size=8)


def fed(decoder: Decoder, data: bytes, cuts: list[int]) -> list[tuple[int, bytes]]:
    """What comes out when the data arrives in pieces."""
    found: list[tuple[int, bytes]] = []
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(edges):
        decoder.feed(data[start:end])
        found += decoder.frames()
    return found


@given(FRAMES, st.lists(st.integers(0, 5000), max_size=20))
def test_every_cutting_gives_the_same_frames(frames: list[tuple[Kind, bytes]], cuts: list[int]) -> None:
    data = b"".join(frame(kind, payload) for kind, payload in frames)
    decoder = Decoder()
    assert fed(decoder, data, cuts) == frames
    assert decoder.take() == b""


@given(FRAMES, st.binary(max_size=4))
def test_what_was_not_decoded_is_handed_on_whole(frames: list[tuple[Kind, bytes]], rest: bytes) -> None:
    decoder = Decoder()
    decoder.feed(b"".join(frame(*one) for one in frames) + rest)
    taken = [next(decoder.frames()) for _ in frames[:1]]
    assert b"".join(frame(*one) for one in taken) + decoder.take() == b"".join(frame(*one) for one in frames) + rest
    assert decoder.next() is None


@pytest.mark.parametrize("kind", [0, Kind.END + 1, 77, 255])
def test_unknown_kind_is_refused_before_its_payload_is_there(kind: int) -> None:
    decoder = Decoder()
    decoder.feed(HEADER.pack(kind, 10))
    with pytest.raises(BadFrame):
        decoder.next()


def test_length_is_bounded_before_anything_is_kept_for_it() -> None:
    decoder = Decoder(limit=16)
    decoder.feed(head(Kind.STDIN, 17))
    with pytest.raises(BadFrame, match="17"):
        decoder.next()
    decoder = Decoder(limit=16)
    decoder.feed(frame(Kind.STDIN, b"x" * 16))
    assert decoder.next() == (Kind.STDIN, b"x" * 16)


def test_default_limit_is_a_megabyte() -> None:
    decoder = Decoder()
    decoder.feed(head(Kind.STDOUT, MAX_PAYLOAD))
    assert decoder.next() is None
    decoder.feed(b"x" * MAX_PAYLOAD)
    assert decoder.next() == (Kind.STDOUT, b"x" * MAX_PAYLOAD)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_frames_or_refused(data: bytes) -> None:
    decoder = Decoder(limit=100)
    decoder.feed(data)
    whole = b""
    try:
        for kind, payload in decoder.frames():
            whole += frame(kind, payload)
    except BadFrame:
        pass
    assert data.startswith(whole)
    assert data == whole + decoder.take()
