"""The commands of the fake daemon's boxes: real processes of this host, on pipes or on a terminal.

Speaks the routes of executions and the WebSocket of attach (by wsproto). All output is kept, so
that any `since` can be asked for. A test may break attachments: `cut_after` counts payload bytes.
"""

from __future__ import annotations

import bisect
import fcntl
import itertools
import json
import os
import pty
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import wsproto
from wsproto import events

from tests.unit import fake_daemon
from tests.unit.fake_replies import Answer, Upgrade, problem

SECONDS = 30.0
_ON_TERMINAL = (
    "import fcntl, os, sys, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\nos.execvp(sys.argv[1], sys.argv[1:])\n"
)


@contextmanager
def serving(socket: Path) -> Iterator[fake_daemon.FakeDaemon]:
    """A fake daemon whose commands run."""
    with closing(FakeCommands()) as commands, fake_daemon.serving(socket, commands) as daemon:
        yield daemon


class FakeCommands:
    def __init__(self) -> None:
        self.executions: dict[str, Execution] = {}
        self.cut_after: list[int] = []  # for each attachment, in order
        self._all: list[Execution] = []
        self._keys: dict[str, str] = {}
        self._numbers = itertools.count(1)

    def close(self) -> None:
        for execution in self._all:
            execution.kill()
            execution.ended.wait(SECONDS)
            execution.close()

    def answer(self, request: Any, box_id: str, rest: list[str]) -> Answer:
        if request.path.endswith("/exec"):
            return self._start(request, box_id)
        if not rest:
            return 200, [found.info() for found in self.executions.values() if found.box_id == box_id]
        execution = self.executions.get(rest[0])
        if execution is None or execution.box_id != box_id:
            return problem(404, "not_found", f"no execution {rest[0]}")
        return self._one(request, execution, rest[1] if len(rest) > 1 else "")

    def _start(self, request: Any, box_id: str) -> Answer:
        key = request.headers.get("idempotency-key")
        if key in self._keys:
            return 201, {"execution_id": self._keys[key]}
        body = request.body
        path = shutil.which(body["command"], mode=os.F_OK)
        reason = "No such file or directory" if path is None else "Permission denied"
        if path is None or not os.access(path, os.X_OK):
            message = f"command {body['command']!r} cannot be executed in the box: {reason}"
            return problem(400, "invalid_argument", message)
        execution = Execution(f"e{next(self._numbers)}", box_id, body)
        self.executions[execution.execution_id] = execution
        self._all.append(execution)
        if key:
            self._keys[key] = execution.execution_id
        return 201, {"execution_id": execution.execution_id}

    def _one(self, request: Any, execution: Execution, verb: str) -> Answer:
        if verb == "attach":
            cut = self.cut_after.pop(0) if self.cut_after else None
            return execution.attach(request, cut)
        if request.method == "DELETE":
            execution.kill()
            del self.executions[execution.execution_id]
        elif verb == "signal":
            if execution.ended.is_set():
                return problem(409, "invalid_state", "it has ended")
            execution.signal(request.body["signal"])
        elif verb == "resize":
            if not execution.tty:
                return problem(409, "invalid_state", "it has no terminal")
            execution.resize(request.body["cols"], request.body["rows"])
        else:
            return 200, execution.info()
        return 204, None


class Execution:
    def __init__(self, execution_id: str, box_id: str, body: dict[str, Any]) -> None:
        self.execution_id, self.box_id, self.body, self.tty = execution_id, box_id, body, body["tty"]
        self.ended = threading.Event()
        self.attached = False
        self.pongs = 0
        self._socket: socket.socket | None = None
        self.exit_code: int | None = None
        self._output: list[tuple[int, bytes]] = []
        self._starts: list[int] = []
        self._total = self._delivered = 0
        self._changed = threading.Condition()
        self._readers: list[threading.Thread] = []
        self._start()

    def _start(self) -> None:
        argv = [self.body["command"], *self.body["args"]]
        kept = {"env": {**os.environ, **self.body["env"]}, "cwd": self.body.get("working_dir")}
        if self.tty:
            self._stdin, terminal = pty.openpty()
            self.resize(self.body.get("cols") or 80, self.body.get("rows") or 24)
            argv = [sys.executable, "-S", "-c", _ON_TERMINAL, *argv]
            self.process = subprocess.Popen(
                argv, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True, **kept
            )  # fmt: skip
            os.close(terminal)
            self._read(1, self._stdin)
        else:
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(
                argv, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True, bufsize=0, **kept
            )  # fmt: skip
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            assert self.process.stderr is not None
            self._stdin = self.process.stdin.fileno()
            self._read(1, self.process.stdout.fileno())
            self._read(2, self.process.stderr.fileno())
        threading.Thread(target=self._reap, daemon=True).start()

    def _read(self, channel: int, descriptor: int) -> None:
        def read() -> None:
            while data := _read_or_end(descriptor):
                with self._changed:
                    self._starts.append(self._total)
                    self._output.append((channel, data))
                    self._total += len(data)
                    self._changed.notify_all()

        self._readers.append(threading.Thread(target=read, daemon=True))
        self._readers[-1].start()

    def _reap(self) -> None:
        code = self.process.wait()
        for reader in self._readers:
            reader.join(SECONDS)
        with self._changed:
            self.exit_code = code if code >= 0 else 128 - code
            self.ended.set()
            self._changed.notify_all()

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        if self.tty:
            os.close(self._stdin)

    def info(self) -> dict[str, Any]:
        return {
            "execution_id": self.execution_id, "command": self.body["command"], "attached": self.attached,
            "status": "completed" if self.ended.is_set() else "running", "tty": self.tty,
            "exit_code": self.exit_code, "started_at": "2025-01-01T00:00:00Z", "duration_ms": None,
            "error_message": None,
        }  # fmt: skip

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            if not self.ended.is_set():
                os.killpg(self.process.pid, number)

    def resize(self, cols: int, rows: int) -> None:
        with suppress(OSError):
            fcntl.ioctl(self._stdin, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def cut(self) -> None:
        """Breaks the attachment."""
        assert self._socket is not None
        self._socket.shutdown(socket.SHUT_RDWR)

    def attach(self, request: Any, cut: int | None) -> Answer:
        with self._changed:
            if self.attached:
                return problem(409, "invalid_state", "somebody is attached already")
            self.attached = True
        since = request.query.get("since")
        start = self._delivered if since is None else int(since)
        return 101, Upgrade(lambda *given: self._serve(*given, start, cut))

    def _serve(
        self, sock: socket.socket, headers: list[tuple[bytes, bytes]], path: str, start: int, cut: int | None
    ) -> None:
        self._socket = sock
        ws = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        ws.initiate_upgrade_connection(headers, path)
        assert isinstance(next(iter(ws.events())), events.Request)
        sending = threading.Lock()

        def send(event: events.Event) -> None:
            with sending:
                sock.sendall(ws.send(event))

        try:
            send(events.AcceptConnection())
            gone = threading.Event()
            listener = threading.Thread(target=self._listen, args=(sock, ws, send, gone), daemon=True)
            listener.start()
            self._talk(send, start, cut, gone)
        except (OSError, wsproto.utilities.LocalProtocolError):
            pass
        finally:
            self.attached = False
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _talk(self, send: Callable[[events.Event], None], start: int, cut: int | None, gone: threading.Event) -> None:
        send(events.Ping(payload=b"are you there"))
        sent = 0
        while True:
            with self._changed:
                while not (pieces := self._after(start + sent)) and not self.ended.is_set():
                    if gone.is_set():
                        return
                    self._changed.wait(SECONDS)
            for channel, data in pieces:
                if cut is not None and sent + len(data) >= cut:
                    send(events.BytesMessage(data=bytes([channel]) + data[: cut - sent]))
                    return
                send(events.BytesMessage(data=bytes([channel]) + data))
                sent += len(data)
                self._delivered = start + sent
            if not pieces and self.ended.is_set():
                send(events.TextMessage(data=json.dumps({"type": "exit", "exit_code": self.exit_code})))
                send(events.CloseConnection(code=1000))
                return

    def _after(self, offset: int) -> list[tuple[int, bytes]]:
        first = max(0, bisect.bisect_right(self._starts, offset) - 1)
        found = self._output[first:]
        if found:
            found[0] = (found[0][0], found[0][1][offset - self._starts[first] :])
        return [piece for piece in found if piece[1]]

    def _listen(
        self, sock: socket.socket, ws: wsproto.WSConnection, send: Callable[[events.Event], None], gone: threading.Event
    ) -> None:
        with suppress(OSError, wsproto.utilities.ProtocolError):
            while data := sock.recv(65536):
                ws.receive_data(data)
                for event in ws.events():
                    if isinstance(event, events.BytesMessage):
                        self._write(bytes(event.data))
                    elif isinstance(event, events.TextMessage):
                        self._told(json.loads(event.data), send)
                    elif isinstance(event, events.Pong):
                        self.pongs += 1
        gone.set()
        with self._changed:
            self._changed.notify_all()

    def _write(self, data: bytes) -> None:
        with suppress(OSError):
            while data:
                data = data[os.write(self._stdin, data) :]

    def _told(self, message: dict[str, Any], send: Callable[[events.Event], None]) -> None:
        match message["type"]:
            case "stdin_eof" if self.process.stdin is not None:
                self.process.stdin.close()
            case "resize" if self.tty:
                self.resize(message["cols"], message["rows"])
            case "resize":
                send(events.TextMessage(data=json.dumps({"type": "error", "message": "it has no terminal"})))
            case "signal":
                self.signal(message["sig"])


def _read_or_end(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # EIO: the last of a terminal's other side is closed
        return b""
