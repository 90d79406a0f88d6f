"""Archives in and out of a box: a guest inside it goes on with the client's connection.

    put: DATA* END from the daemon, then one REPLY        get: one REPLY, then DATA* END

What ends without its END was cut. The guest has the box's rights and no other; it loads what it needs
before it enters, since behind the door every file is the box's. Standard library only.
"""

import json
import os
import select
import signal
import socket
from typing import Any

from boxlited.shim import frames
from boxlited.shim.birth import Birth
from boxlited.shim.control import Connection
from boxlited.shim.engines.base import EngineError
from boxlited.shim.enter import fork_guest
from boxlited.shim.frames import Kind
from boxlited.shim.loop import Loop, Timer
from boxlited.shim.workload import Workload

RECEIVE_BYTES = 512 * 1024
CLEAR_UP_SECONDS = 60.0


def serve_files(connection: Connection, request: dict[str, Any], workload: Workload, loop: Loop) -> None:
    """Hand the connection to a guest. Raises what makes a refusal while it is still ours."""
    if not isinstance(request["path"], str) or request["op"] not in ("put_files", "get_files"):
        raise ValueError("path")
    sock, rest = connection.hand_over()
    transfer = _Transfer(sock, rest, request)
    try:
        entrant, channel = fork_guest(
            workload.pid, workload.pidfd, (sock.fileno(),), transfer.run, prepare=_load_archives
        )
    except OSError as error:
        _end(sock, EngineError("resource_exhausted", f"no process could be made in the box: {error.strerror}"))
        return

    def born(pid: int, _terminal: int | None, error: EngineError | None) -> None:
        if error is None:
            _attend(pid, sock, loop)
        else:
            _end(sock, error)

    Birth(entrant, channel, born, loop)


def _end(sock: socket.socket, error: EngineError) -> None:
    """Why no guest took the connection over."""
    try:
        sock.send(_reply({"ok": False, "kind": error.kind, "message": str(error)}))
    except OSError:
        pass
    finally:
        sock.close()


def _attend(pid: int, sock: socket.socket, loop: Loop) -> None:
    """Until the guest has ended; it has so long to clear up once its client is gone."""
    pidfd, fd = os.pidfd_open(pid), sock.fileno()

    def kill() -> None:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def gone(_events: int) -> None:
        loop.forget(fd)
        timers.append(loop.after(CLEAR_UP_SECONDS, kill))

    def ended(_events: int) -> None:
        for timer in timers:
            timer.cancel()
        loop.forget(fd)
        sock.close()
        loop.forget(pidfd)
        os.close(pidfd)
        os.waitpid(pid, 0)

    timers: list[Timer] = []
    loop.watch(fd, 0, gone)  # nothing but the end of the other side
    loop.watch(pidfd, select.POLLIN, ended)


def _load_archives() -> None:
    """In the entrant, before it enters: nothing is imported inside."""
    import boxlited.shim.archives  # noqa: F401


class _Transfer:
    """The guest's side. `read` and `write` are what the archives package works on."""

    def __init__(self, sock: socket.socket, rest: bytes, request: dict[str, Any]) -> None:
        self._sock = sock
        self._request = request
        self._decoder = frames.Decoder()
        self._decoder.feed(rest)
        self._data = memoryview(b"")
        self._over = False
        self._answered = False

    def run(self, channel: socket.socket) -> None:
        """Never raises: what went wrong is the answer, or a connection that ends too early."""
        from boxlited.shim.archives import ArchiveRefused

        channel.close()
        self._sock.setblocking(True)
        try:
            (self._put if self._request["op"] == "put_files" else self._get)()
        except ArchiveRefused as refused:
            self._refuse(refused.kind, str(refused))
        except (ConnectionError, EOFError):
            return
        except OSError as error:
            self._refuse("storage_error", f"{self._request['path']}: {error.strerror or error}")
        except Exception as error:
            self._refuse("internal", f"{self._request['path']}: {error!r}")

    def _put(self) -> None:
        from boxlited.shim.archives import Limits, unpack

        limits = Limits(**self._request["limits"])
        unpack(
            self.read,
            self._request["path"],
            overwrite=bool(self._request["overwrite"]),
            limits=limits,
            source_is_dir=self._request["source_is_dir"],
        )
        self._answer({"ok": True})

    def _get(self) -> None:
        from boxlited.shim.archives import pack

        pack(self._request["path"], self.write, follow_symlinks=bool(self._request["follow_symlinks"]))
        self._sock.sendall(frames.frame(Kind.END))

    def read(self, count: int) -> bytes:
        """At most `count` bytes of the archive; b"" at its end. Raises EOFError when it was cut."""
        while not self._data and not self._over:
            found = self._decoder.next()
            if found is None:
                self._receive()
            elif found[0] == Kind.DATA:
                self._data = memoryview(found[1])
            else:
                self._over = True
                if found[0] != Kind.END:
                    raise EOFError
        data = self._data[:count]
        self._data = self._data[count:]
        return bytes(data)

    def _receive(self) -> None:
        data = self._sock.recv(RECEIVE_BYTES)
        if not data:
            raise EOFError
        self._decoder.feed(data)

    def write(self, data: bytes) -> None:
        if not self._answered:
            self._answer({"ok": True})
        for start in range(0, len(data), frames.MAX_PAYLOAD):
            piece = memoryview(data)[start : start + frames.MAX_PAYLOAD]
            self._sock.sendall(frames.head(Kind.DATA, len(piece)))
            self._sock.sendall(piece)

    def _refuse(self, kind: str, message: str) -> None:
        """After the first byte there is no answer left but to end without an END."""
        if not self._answered:
            self._answer({"ok": False, "kind": kind, "message": message[:2000]})

    def _answer(self, reply: dict[str, Any]) -> None:
        self._answered = True
        self._sock.sendall(_reply(reply))


def _reply(reply: dict[str, Any]) -> bytes:
    return frames.frame(Kind.REPLY, json.dumps(reply).encode())
