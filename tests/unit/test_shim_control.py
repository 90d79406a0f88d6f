"""The shim's end of the control channel: a stranger gets nothing done, whatever it sends, and harms no other."""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxlited.shim import control, frames, proof
from boxlited.shim.frames import Kind
from tests.unit.shim_support import KEY, Client, Served, served, turn, turn_until

NONCE = bytes(proof.NONCE_BYTES)
PIECES = st.lists(st.binary(max_size=200), max_size=6)


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as one:
        yield one


@pytest.fixture(scope="module")
def shared() -> Iterator[Served]:
    with tempfile.TemporaryDirectory() as directory, served(Path(directory)) as one:
        yield one


def test_frames_of_a_proven_client_reach_the_handler(channel: Served) -> None:
    client = channel.connect()
    client.send(frames.frame(Kind.REQUEST, b"one") + frames.frame(Kind.STDIN, b"two"))
    assert channel.handled == [(Kind.REQUEST, b"one"), (Kind.STDIN, b"two")]


@given(st.integers(1, proof.HELLO_BYTES), st.integers(1, proof.PROOF_BYTES))
@settings(max_examples=25, deadline=None)
def test_the_proof_may_come_in_pieces_and_frames_right_behind_it(shared: Served, first: int, second: int) -> None:
    shared.handled.clear()
    client = shared.connect(proven=False)
    hello = proof.hello(NONCE)
    client.send(hello[:first])
    client.send(hello[first:])
    theirs = proof.check_answer(KEY, NONCE, client.receive())
    rest = proof.client_proof(KEY, NONCE, theirs) + frames.frame(Kind.REQUEST, b"x")
    client.send(rest[:second])
    client.send(rest[second:])
    assert shared.handled == [(Kind.REQUEST, b"x")]
    client.close()


@given(PIECES)
@settings(max_examples=150, deadline=None)
def test_a_stranger_never_reaches_the_handler(shared: Served, pieces: list[bytes]) -> None:
    shared.handled.clear()
    client = shared.connect(proven=False)
    for piece in pieces:
        client.send(piece)
    assert client.receive() == b""
    assert shared.handled == []
    client.close()


@given(PIECES)
@settings(max_examples=150, deadline=None)
def test_one_that_says_hello_and_cannot_prove_itself_never_does_either(shared: Served, pieces: list[bytes]) -> None:
    shared.handled.clear()
    client = shared.connect(proven=False)
    client.send(proof.hello(NONCE))
    assert len(client.receive()) == proof.ANSWER_BYTES
    for piece in pieces:
        client.send(piece)
    assert client.receive() == b""
    assert shared.handled == []
    assert client.ended or sum(map(len, pieces)) < proof.PROOF_BYTES
    client.close()


@given(PIECES)
@settings(max_examples=150, deadline=None)
def test_garbage_of_a_proven_client_is_frames_or_its_end(shared: Served, pieces: list[bytes]) -> None:
    shared.handled.clear()
    client = shared.connect()
    for piece in pieces:
        client.send(piece)
    client.receive()
    decoder = frames.Decoder(control.MAX_REQUEST_BYTES)
    decoder.feed(b"".join(pieces))
    expected = []
    try:
        for found in decoder.frames():
            expected.append(found)
        good = True
    except frames.BadFrame:
        good = False
    assert shared.handled == expected
    assert client.ended is not good
    client.close()


def test_a_wrong_key_another_version_and_a_replayed_proof_end_the_connection(channel: Served) -> None:
    wrong = channel.connect(proven=False)
    wrong.prove(bytes(32))
    newer = channel.connect(proven=False)
    newer.send(proof.MAGIC + b"\2" + NONCE)
    first = channel.connect(proven=False)
    first.send(proof.hello(NONCE))
    seen = proof.client_proof(KEY, NONCE, proof.check_answer(KEY, NONCE, first.receive()))
    first.send(seen)
    replay = channel.connect(proven=False)
    replay.send(proof.hello(NONCE))
    replay.receive()
    replay.send(seen + frames.frame(Kind.REQUEST, b"x"))
    for client in (wrong, newer, replay):
        client.receive()
        assert client.ended
    first.receive()
    assert not first.ended
    assert channel.handled == []


def test_the_shims_answer_serves_nobody_as_its_own_proof(channel: Served) -> None:
    """Two connections played against each other: what one is answered is no proof on the other."""
    first, second = channel.connect(proven=False), channel.connect(proven=False)
    first.send(proof.hello(NONCE))
    answer = first.receive()
    second.send(proof.hello(answer[1 : 1 + proof.NONCE_BYTES]))
    reflected = second.receive()[1 + proof.NONCE_BYTES :]
    first.send(reflected + frames.frame(Kind.REQUEST, b"x"))
    first.receive()
    assert first.ended
    assert channel.handled == []


def test_who_does_not_prove_itself_in_time_is_closed(channel: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "PROOF_SECONDS", 0.02)
    silent, slow = channel.connect(proven=False), channel.connect(proven=False)
    slow.send(proof.hello(NONCE))
    turn(channel.loop, 0.05)
    for client in (silent, slow):
        client.receive()
        assert client.ended
    proven = channel.connect()
    turn(channel.loop, 0.05)
    proven.receive()
    assert not proven.ended


def test_connections_are_bounded_and_a_place_is_free_again(channel: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_CONNECTIONS", 4)
    clients = [channel.connect(proven=False) for _ in range(6)]
    turn(channel.loop, 0.01)
    for client in clients:
        client.receive()
    assert [client.ended for client in clients] == [False] * 4 + [True] * 2
    clients[0].close()
    channel.connect()
    assert len(channel.server._connections) == 4


def test_without_a_descriptor_left_the_loop_does_not_spin_and_the_client_is_served_later(channel: Served) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    client = Client(channel.loop, channel.path)
    channel.clients.append(client)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        turn(channel.loop, 0.25)
        assert channel.accepts <= 5
        assert not channel.server._connections
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    turn_until(channel.loop, lambda: channel.server._connections, "the client is accepted")
    client.prove()


def test_a_paused_connection_is_not_read_but_its_end_is_seen(channel: Served) -> None:
    client = channel.connect()
    client.send(frames.frame(Kind.REQUEST, b"first"))
    connection = channel.connections[0]
    ended: list[bool] = []
    connection.closed = lambda: ended.append(True)
    connection.pause()
    client.send(frames.frame(Kind.REQUEST, b"second"))
    assert channel.handled == [(Kind.REQUEST, b"first")]
    connection.unpause()
    turn(channel.loop)
    assert channel.handled[1:] == [(Kind.REQUEST, b"second")]
    connection.pause()
    client.close()
    turn_until(channel.loop, lambda: ended, "the end is seen")
    assert ended == [True]


def test_output_waits_for_a_slow_client_and_arrives_whole(channel: Served) -> None:
    client = channel.connect()
    client.send(frames.frame(Kind.REQUEST, b"x"))
    connection = channel.connections[0]
    payload = os.urandom(1 << 20)
    connection.send_frame(Kind.STDOUT, payload)
    assert not connection.is_idle
    found: list[tuple[int, bytes]] = []
    while not found:
        found = client.frames()
    assert found == [(Kind.STDOUT, payload)]
    assert connection.is_idle


def test_a_connection_that_is_handed_over_keeps_what_was_read_of_it(channel: Served) -> None:
    taken: list[bytes] = []

    def handle(connection: control.Connection, _kind: int, payload: bytes) -> None:
        sock, rest = connection.hand_over()
        taken.append(rest)
        sock.close()

    channel.server._handle = handle
    client = channel.connect()
    client.send(frames.frame(Kind.REQUEST, b"x") + b"the rest")
    assert taken == [b"the rest"]
    assert not channel.server._connections
