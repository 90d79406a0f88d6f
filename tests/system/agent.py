"""The QEMU guest agent's protocol: commands and files in a guest that has no network.

One JSON object a line over a unix socket of QEMU. The agent comes and goes with the guest's system, the socket
stays: `connect` asks until the answer to its own question comes back.
"""

from __future__ import annotations

import base64
import json
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CALL_SECONDS = 60.0
ASK_SECONDS = 1.0
CHUNK = 1 << 20


class GuestError(Exception):
    """The agent refused, the guest did not answer, or its machine has ended."""


class Agent:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._buffer = b""

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._buffer = None, b""

    def connect(self, seconds: float, check: Callable[[], None]) -> None:
        """Until the agent answers. `check` raises when there is no use in waiting."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            check()
            try:
                if self._answers_now():
                    return
            except OSError:  # not there yet, or gone
                self.close()
                time.sleep(0.1)
        raise GuestError(f"the guest agent did not answer within {seconds:g} s")

    def _answers_now(self) -> bool:
        """Ask with a number of our own; what else is in the pipe belongs to an earlier question."""
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.connect(str(self._path))
        number = secrets.randbits(30)
        question = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
        self._socket.settimeout(ASK_SECONDS)
        self._socket.sendall(b"\xff" + json.dumps(question).encode() + b"\n")
        end = time.monotonic() + ASK_SECONDS
        while time.monotonic() < end:
            try:
                if json.loads(self._line(end).lstrip(b"\xff")).get("return") == number:
                    return True
            except ValueError:
                continue
            except TimeoutError:
                return False
        return False

    def call(self, command: str, seconds: float = CALL_SECONDS, **arguments: Any) -> Any:
        """One command; names of arguments with `_` for `-`. Raises GuestError."""
        if self._socket is None:
            raise GuestError("not connected to the guest")
        message = {"execute": command, "arguments": {key.replace("_", "-"): value for key, value in arguments.items()}}
        try:
            self._socket.settimeout(seconds)
            self._socket.sendall(json.dumps(message).encode() + b"\n")
            reply = json.loads(self._line(time.monotonic() + seconds).lstrip(b"\xff"))
        except OSError as error:
            raise GuestError(f"{command}: {error or 'no answer'}") from error
        if "error" in reply:
            raise GuestError(f"{command}: {reply['error'].get('desc', reply['error'])}")
        return reply["return"]

    def write_file(self, path: str, content: bytes) -> None:
        handle = self.call("guest-file-open", path=path, mode="w")
        for start in range(0, len(content), CHUNK):
            chunk = base64.b64encode(content[start : start + CHUNK]).decode()
            self.call("guest-file-write", handle=handle, buf_b64=chunk)
        self.call("guest-file-close", handle=handle)

    def read_file(self, path: str) -> bytes:
        handle = self.call("guest-file-open", path=path, mode="r")
        content = b""
        while True:
            reply = self.call("guest-file-read", handle=handle, count=CHUNK)
            content += base64.b64decode(reply["buf-b64"])
            if reply["eof"]:
                self.call("guest-file-close", handle=handle)
                return content

    def _line(self, end: float) -> bytes:
        assert self._socket is not None
        while b"\n" not in self._buffer:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            received = self._socket.recv(CHUNK)
            if not received:
                raise ConnectionError("the machine has ended")
            self._buffer += received
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line
