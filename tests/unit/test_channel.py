"""The daemon's end of a control channel against shims that are slow, strange, or not there."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio

from boxlited.errors import EngineUnavailable, NotFound, Timeout, Unsupported
from boxlited.shim import frames, proof
from boxlited.shim.frames import Kind
from boxlited.supervisor import channel
from boxlited.supervisor.channel import ShimUnproven, open_channel
from boxlited.supervisor.layout import BoxLayout, HomeLayout

KEY = bytes(range(32))


@pytest.fixture
def layout() -> Iterator[BoxLayout]:
    with TemporaryDirectory(prefix="bx") as short:  # an address of a socket holds 107 bytes
        found = HomeLayout(Path(short)).box("a" * 16)
        found.control_socket.parent.mkdir(parents=True)
        yield found


@pytest.fixture
def listener(layout: BoxLayout) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(layout.control_socket))
        sock.listen(0)
        sock.settimeout(10)
        yield sock


def serve(sock: socket.socket, key: bytes, *answers: bytes) -> None:
    """A shim's side of one connection; the first that says anything."""
    with sock:
        hello = sock.recv(proof.HELLO_BYTES, socket.MSG_WAITALL)
        if not hello:
            return
        nonce = proof.read_hello(hello)
        ours = os.urandom(proof.NONCE_BYTES)
        sock.sendall(proof.answer(key, nonce, ours))
        said = sock.recv(proof.PROOF_BYTES, socket.MSG_WAITALL)
        if said:
            proof.check_client(key, nonce, ours, said)
            for answer in answers:
                sock.recv(65536)
                sock.sendall(answer)
            with suppress(OSError):
                sock.recv(1)


def accept_and_close(listener: socket.socket) -> None:
    listener.accept()[0].close()


def in_thread(listener: socket.socket, key: bytes, *answers: bytes) -> threading.Thread:
    def run() -> None:
        serve(listener.accept()[0], key, *answers)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


async def test_both_prove_themselves_and_a_question_is_answered(layout: BoxLayout, listener: socket.socket) -> None:
    thread = in_thread(listener, KEY, frames.frame(Kind.REPLY, b'{"ok": true, "n": 3}'))
    async with open_channel(layout, os.getpid(), KEY) as opened:
        assert (await opened.request(op="ping"))["n"] == 3
    thread.join(10)
    assert not thread.is_alive()


async def test_a_full_queue_is_waited_for_and_no_stranger_is_seen(layout: BoxLayout, listener: socket.socket) -> None:
    """A local connect that finds no place says EAGAIN, and the socket is then connected to nobody at all."""
    crowd: list[socket.socket] = []
    full = False
    while not full:
        crowd.append(socket.socket(socket.AF_UNIX))
        crowd[-1].setblocking(False)
        full = crowd[-1].connect_ex(str(layout.control_socket)) == errno.EAGAIN

    def run() -> None:
        for _ in crowd[:-1]:
            listener.accept()[0].close()
        serve(listener.accept()[0], KEY, frames.frame(Kind.REPLY, b'{"ok": true}'))

    opened = trio.Event()

    async def ask() -> None:
        async with open_channel(layout, os.getpid(), KEY) as one:
            await one.request(op="ping")
            opened.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.sleep(channel.CONNECT_RETRY_SECONDS * 5)
        assert not opened.is_set()
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
    assert opened.is_set()
    thread.join(10)
    for sock in crowd:
        sock.close()


async def test_another_pid_than_the_shims_is_told_nothing(layout: BoxLayout, listener: socket.socket) -> None:
    heard: list[bytes] = []
    thread = threading.Thread(target=lambda: heard.append(_all_of(listener)), daemon=True)
    thread.start()
    with pytest.raises(ShimUnproven, match="another process"):
        async with open_channel(layout, os.getpid() + 1, KEY):
            pass
    thread.join(10)
    assert heard == [b""]


def _all_of(listener: socket.socket) -> bytes:
    sock, _ = listener.accept()
    with sock:
        return sock.recv(1000)


async def test_another_key_is_unproven_and_our_own_proof_is_not_given(
    layout: BoxLayout, listener: socket.socket
) -> None:
    thread = in_thread(listener, bytes(32))
    with pytest.raises(ShimUnproven, match="does not know the key"):
        async with open_channel(layout, os.getpid(), KEY):
            pass
    thread.join(10)
    assert not thread.is_alive()


async def test_one_that_closes_or_is_not_there_is_no_stranger(layout: BoxLayout, listener: socket.socket) -> None:
    threading.Thread(target=accept_and_close, args=(listener,), daemon=True).start()
    with pytest.raises(EngineUnavailable, match="closed its channel"):
        async with open_channel(layout, os.getpid(), KEY):
            pass
    listener.close()
    with pytest.raises(Unsupported, match="no control channel"):
        async with open_channel(layout, os.getpid(), KEY):
            pass
    layout.control_socket.unlink()
    with pytest.raises(Unsupported, match="no control channel"):
        async with open_channel(layout, os.getpid(), KEY):
            pass


async def test_one_that_hangs_is_a_timeout(
    layout: BoxLayout, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "PROOF_SECONDS", 0.05)
    with pytest.raises(Timeout, match="may hang"):
        async with open_channel(layout, os.getpid(), KEY):
            pass


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (frames.frame(Kind.REPLY, b'{"ok": false, "kind": "not_found", "message": "no"}'), NotFound),
        (frames.frame(Kind.REPLY, b'{"ok": false, "kind": "what", "message": "no"}'), EngineUnavailable),
        (frames.frame(Kind.REPLY, b'{"ok": 1}'), EngineUnavailable),
        (frames.frame(Kind.REPLY, b"[]"), EngineUnavailable),
        (frames.frame(Kind.REPLY, b"[" * 100_000), EngineUnavailable),
        (frames.frame(Kind.STDOUT, b'{"ok": true}'), EngineUnavailable),
        (b"\xff" * 10, EngineUnavailable),
        (frames.head(Kind.REPLY, frames.MAX_PAYLOAD + 1), EngineUnavailable),
    ],
)
async def test_an_answer_that_is_none_is_an_error_and_not_a_bug(
    layout: BoxLayout, listener: socket.socket, answer: bytes, error: type[Exception]
) -> None:
    thread = in_thread(listener, KEY, answer)
    with pytest.raises(error):
        async with open_channel(layout, os.getpid(), KEY) as opened:
            await opened.request(op="ping")
    thread.join(10)
