"""The keys that leave a command: found however they are cut, and nothing else is."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from boxlited.cli.terminal import DetachKeys


@given(before=st.binary(max_size=20), after=st.binary(max_size=5), cuts=st.lists(st.integers(0, 30), max_size=5))
def test_the_detach_keys_are_found_however_they_are_cut(before: bytes, after: bytes, cuts: list[int]) -> None:
    clean = before.replace(b"\x11", b"x").rstrip(b"\x10")
    typed = clean + b"\x10\x11" + after
    points = [0, *sorted(min(cut, len(typed)) for cut in cuts), len(typed)]
    keys, sent, detached = DetachKeys(), b"", False
    for start, end in pairwise(points):
        piece, detached = keys.feed(typed[start:end])
        sent += piece
        if detached:
            break
    assert (sent, detached) == (clean, True)


@given(st.binary(max_size=60).map(lambda data: data.replace(b"\x10\x11", b"")).filter(lambda d: b"\x10\x11" not in d))
def test_other_keys_pass(data: bytes) -> None:
    sent, detached = DetachKeys().feed(data + b"x")
    assert (sent, detached) == (data + b"x", False)
