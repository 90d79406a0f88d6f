"""Commands in a box of the real daemon, over plain HTTP and the WebSocket. A connection for each request: any
thread may use it."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from tests.integration.daemon_harness import Daemon, until
from tests.integration.ws import PATIENCE_SECONDS, Attached, End


class Answer:
    """One reply: `error` is what an error body holds."""

    def __init__(self, reply: http.client.HTTPResponse) -> None:
        self.status = reply.status
        self.headers = reply.headers
        content = reply.read()
        self.value: Any = json.loads(content) if content else None

    @property
    def error(self) -> dict[str, Any]:
        assert self.status >= 400, self.value
        return dict(self.value["error"])


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("boxlited", timeout=PATIENCE_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(daemon: Daemon, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    connection = _UnixConnection(daemon.socket)
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {key.replace("_", "-"): text for key, text in headers.items()})
        return Answer(connection.getresponse())
    finally:
        connection.close()


class Commands:
    """The commands of one box."""

    def __init__(self, daemon: Daemon, box: str) -> None:
        self.daemon = daemon
        self.box = box

    def _path(self, execution_id: str = "", verb: str = "") -> str:
        return f"/v1/boxes/{self.box}/executions" + "".join(f"/{part}" for part in (execution_id, verb) if part)

    def ask_exec(self, command: str, *args: str, key: str | None = None, **fields: Any) -> Answer:
        headers = {} if key is None else {"Idempotency_Key": key}
        body = {"command": command, "args": list(args), **fields}
        return ask(self.daemon, "POST", f"/v1/boxes/{self.box}/exec", body, **headers)

    def exec(self, command: str, *args: str, key: str | None = None, **fields: Any) -> str:
        answer = self.ask_exec(command, *args, key=key, **fields)
        assert answer.status == 201, answer.value
        return str(answer.value["execution_id"])

    def refused(self, status: int, code: str, command: str, *args: str, **fields: Any) -> str:
        """The message of an exec that is refused so."""
        answer = self.ask_exec(command, *args, **fields)
        assert (answer.status, answer.error["code"]) == (status, code), answer.value
        return str(answer.error["message"])

    def attach(self, execution_id: str, query: str = "", **options: Any) -> Attached:
        return Attached(self.daemon.socket, self.box, execution_id, query, **options)

    def run(self, command: str, *args: str, stdin: bytes | None = None, **fields: Any) -> End:
        """Execute, attach, feed, and read to the end."""
        with self.attach(self.exec(command, *args, **fields)) as stream:
            if stdin is not None:
                stream.stdin(stdin)
                stream.eof()
            return stream.end()

    def sh(self, script: str, **fields: Any) -> str:
        """What a shell script prints; it must end well."""
        end = self.run("/bin/sh", "-c", script, **fields)
        assert end.exit_code == 0, end
        return end.stdout.decode()

    def list(self) -> list[dict[str, Any]]:
        answer = ask(self.daemon, "GET", self._path())
        assert answer.status == 200, answer.value
        return list(answer.value)

    def info(self, execution_id: str) -> dict[str, Any]:
        answer = ask(self.daemon, "GET", self._path(execution_id))
        assert answer.status == 200, answer.value
        return dict(answer.value)

    def until(self, execution_id: str, **wanted: Any) -> dict[str, Any]:
        """Wait until these fields of an execution have these values."""

        def look() -> dict[str, Any] | None:
            info = self.info(execution_id)
            return info if all(info[key] == value for key, value in wanted.items()) else None

        found = until(look, f"execution {execution_id} becomes {wanted}")
        assert found is not None
        return found

    def signal(self, execution_id: str, number: int) -> Answer:
        return ask(self.daemon, "POST", self._path(execution_id, "signal"), {"signal": number})

    def resize(self, execution_id: str, cols: int, rows: int) -> Answer:
        return ask(self.daemon, "POST", self._path(execution_id, "resize"), {"cols": cols, "rows": rows})

    def delete(self, execution_id: str) -> Answer:
        return ask(self.daemon, "DELETE", self._path(execution_id))
