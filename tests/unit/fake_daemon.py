"""A tiny daemon for tests of the client and of boxctl: a real HTTP server on a real unix socket.

It keeps boxes in a dict, and their files are a directory (`fake_files`). Commands in them run where a test gives it
somebody who runs them: it starts no process itself. What a test wants to be different, it scripts:
`replies[(method, path)]` is a function of the request, or an (HTTP status, body) pair; a body that
is a list of bytes is streamed in chunks, and an Event in it is waited for.
"""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.unit.fake_files import FakeFiles
from tests.unit.fake_replies import Answer, Upgrade, problem

__all__ = ["CUT", "Answer", "FakeDaemon", "Request", "Upgrade", "problem", "serving"]

GATE_SECONDS = 10.0
CUT = object()  # in a streamed body: the connection breaks here


class Request(NamedTuple):
    method: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str]


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    fake: FakeDaemon

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left early is no error here."""


class Commands(Protocol):
    """Answers what is asked about commands: the request, the id of its box, what follows in the path."""

    def answer(self, request: Any, box_id: str, rest: list[str]) -> Answer: ...


class FakeDaemon:
    def __init__(self, socket: Path, commands: Commands | None) -> None:
        self.socket = socket
        self.boxes: dict[str, dict[str, Any]] = {}
        self.requests: list[Request] = []
        self.replies: dict[tuple[str, str], Answer | Callable[[Request], Answer]] = {}
        self.logs: dict[str, list[Any]] = {}
        self.commands: Any = commands
        self.files = FakeFiles(socket.parent / "files")

    def add(self, box_id: str, name: str, status: str = "running", **more: Any) -> dict[str, Any]:
        box = {
            "box_id": box_id, "name": name, "status": status, "created_at": "2025-01-01T00:00:00Z",
            "updated_at": "2025-01-01T00:00:00Z", "started_at": None, "pid": None, "engine": "sandbox",
            "exit_code": None, "stop_cause": None, "failure_reason": None, "run_id": "r1", **more,
        }  # fmt: skip
        self.boxes[box_id] = box
        return box

    def calls(self) -> list[tuple[str, str]]:
        return [(request.method, request.path) for request in self.requests]

    def answer(self, request: Request) -> Answer:
        self.requests.append(request)
        scripted = self.replies.get((request.method, request.path))
        if scripted is not None:
            return scripted(request) if callable(scripted) else scripted
        parts = request.path.strip("/").split("/")
        if parts == ["v1", "config"]:
            return 200, {"version": "0", "defaults": {"stop_timeout_seconds": 7.0}, "capabilities": {}}
        if parts[:2] != ["v1", "boxes"]:
            return problem(404, "not_found", f"no route {request.path}")
        if len(parts) == 2:
            return self._collection(request)
        box = self._find(unquote(parts[2]))
        if box is None:
            return problem(404, "not_found", f"no box is called {unquote(parts[2])!r}")
        verb = parts[3] if len(parts) > 3 else ""
        if verb in ("exec", "executions"):
            if self.commands is None:
                return problem(422, "unsupported", "nobody runs commands here")
            if verb == "exec":
                box["status"] = "running"
            return self.commands.answer(request, box["box_id"], parts[4:])
        if verb == "files":
            return self.files.answer(request, box["box_id"])
        return self._box(request, box, verb)

    def _find(self, ref: str) -> dict[str, Any] | None:
        return next((b for b in self.boxes.values() if ref in (b["box_id"], b["name"])), None)

    def _collection(self, request: Request) -> Answer:
        if request.method == "POST":
            box_id = f"{'abcdefgh'[len(self.boxes)]}aaaaaaaaaaaaaaa"
            return 201, self.add(box_id, request.body.get("name") or f"box-{box_id[0]}", "configured")
        wanted = request.query.get("status")
        boxes = [box for box in self.boxes.values() if wanted in (None, box["status"])]
        size, start = int(request.query["pageSize"]), int(request.query.get("pageToken", 0))
        following = str(start + size) if start + size < len(boxes) else None
        return 200, {"boxes": boxes[start : start + size], "next_page_token": following}

    def _box(self, request: Request, box: dict[str, Any], verb: str) -> Answer:
        match request.method, verb:
            case "DELETE", "":
                if box["status"] == "running" and "force" not in request.query:
                    return problem(409, "invalid_state", f"box {box['name']} is running; stop it first")
                del self.boxes[box["box_id"]]
                return 204, None
            case "POST", "start" | "restart":
                box["status"] = "running"
            case "POST", "stop" | "kill":
                box.update(status="stopped", stop_cause="user", exit_code=143)
            case "GET", "logs":
                return 200, self.logs.get(box["box_id"], [b""])
            case "GET", "crash":
                return problem(404, "not_found", f"box {box['name']} has not crashed")
        return 200, box


class _Chunks:
    """A chunked body as a file."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self._rest = b""
        self._ended = False

    def read(self, size: int = -1) -> bytes:
        parts = []
        while not self._ended and (size < 0 or len(self._rest) < size):
            length = int(self._source.readline(), 16)
            data = self._source.read(length)
            self._source.readline()
            self._ended = not length
            if size < 0:
                parts.append(data)
            else:
                self._rest += data
        if size < 0:
            return b"".join([self._rest, *parts])
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        pass

    def _handle(self) -> None:
        url = urlsplit(self.path)
        headers = {key.lower(): value for key, value in self.headers.items()}
        if headers.get("transfer-encoding") == "chunked":
            body: Any = _Chunks(self.rfile)
        else:
            raw = self.rfile.read(int(headers.get("content-length", 0)))
            body = json.loads(raw) if raw else None
        request = Request(self.command, url.path, dict(parse_qsl(url.query)), body, headers)
        status, body = self.server.fake.answer(request)
        if isinstance(body, Upgrade):
            self.close_connection = True
            names = [(key.encode(), value.encode()) for key, value in self.headers.items()]
            body.serve(self.connection, names, self.path)
        elif body and isinstance(body, list) and all(not isinstance(part, dict) for part in body):
            self._stream(status, body)
        else:
            self._whole(status, body)

    def _whole(self, status: int, body: Any) -> None:
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, status: int, parts: list[Any]) -> None:
        self.send_response(status)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in parts:
            if part is CUT:
                self.close_connection = True
                return
            if isinstance(part, threading.Event):
                part.wait(GATE_SECONDS)
            elif part:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    do_GET = do_POST = do_DELETE = do_HEAD = do_PUT = _handle


@contextmanager
def serving(socket: Path, commands: Commands | None = None) -> Iterator[FakeDaemon]:
    fake = FakeDaemon(socket, commands)
    with suppress(FileNotFoundError):
        socket.unlink()
    with _Server(str(socket), _Handler) as server:
        server.fake = fake
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield fake
        finally:
            server.shutdown()
            thread.join(GATE_SECONDS)
