"""One client attached to one execution: output to it as fast as it takes it, input from it.

Bounded: no more than a window is on its way unacknowledged, in either direction. The daemon sends input
only as far as it was told of what the command took; one that sends more is not read, acknowledgements
and all, so it may wait for ever. Standard library only.
"""

import json
from typing import Any

from boxlited.shim.control import Connection
from boxlited.shim.engines.base import EngineError
from boxlited.shim.executions import Execution
from boxlited.shim.frames import OFFSET, Kind

SEND_BYTES = 256 * 1024
WINDOW_BYTES = 1 << 20
STDIN_WINDOW_BYTES = 256 * 1024
STDIN_STEP_BYTES = STDIN_WINDOW_BYTES // 4


class Stream:
    def __init__(self, execution: Execution, connection: Connection, since: int | None) -> None:
        """`since`: the position to go on from; what was delivered before when None."""
        self._execution = execution
        self._connection = connection
        ring = execution.ring
        wanted = ring.acked if since is None else min(since, ring.end)
        self.position = max(wanted, ring.start)
        self._missing = self.position - wanted + (ring.lost if since is None else 0)
        if since is None:
            ring.lost = 0
        self._acked = self.position
        self._ended = False
        self._first = self._told = 0 if execution.stdin is None else execution.stdin.taken

    @property
    def queued(self) -> int:
        """Input of a client before this one that the command did not take yet."""
        stdin = self._execution.stdin
        return 0 if stdin is None else stdin.received - stdin.taken

    def begin(self) -> None:
        self._execution.attach(self._push)
        self._connection.pull = self._push
        if self._execution.stdin is not None:
            self._execution.stdin.drained = self._on_drained
        if self._missing > 0:
            self._connection.send_frame(
                Kind.NOTICE, f"{self._missing} bytes of output were lost: nobody took them in time".encode()
            )
        self._push()

    def _push(self) -> None:
        ring = self._execution.ring
        while self._connection.is_idle and self.position - self._acked < WINDOW_BYTES:
            found = ring.read(self.position, SEND_BYTES)
            if found is None:
                break
            channel, data = found
            self.position += len(data)
            self._connection.send_frame(channel, data)
        if self._execution.is_drained and self.position == ring.end and not self._ended:
            self._ended = self._execution.is_told = True
            self._connection.send_frame(Kind.EXIT, json.dumps(self._execution.view()).encode())

    def _on_drained(self) -> None:
        """The command took input: the client may send as much again."""
        stdin = self._execution.stdin
        if stdin is None:
            return
        if stdin.taken - self._told >= STDIN_STEP_BYTES:
            self._told = stdin.taken
            self._connection.send_frame(Kind.ACK, OFFSET.pack(self._told - self._first))
        if not stdin.is_full:
            self._connection.unpause()

    def hear(self, kind: int, payload: bytes) -> None:
        """A frame of the client. Raises nothing: what makes no sense ends the connection."""
        try:
            self._hear(kind, payload)
        except EngineError as error:
            self._connection.send_frame(Kind.NOTICE, str(error).encode())
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError, OSError):
            self._connection.close()

    def _hear(self, kind: int, payload: bytes) -> None:
        execution = self._execution
        match kind:
            case Kind.ACK if len(payload) == OFFSET.size:
                self._acked = max(self._acked, min(OFFSET.unpack(payload)[0], self.position))
                execution.acknowledge(self._acked)
                self._push()
            case Kind.STDIN if execution.stdin is not None:
                execution.stdin.write(payload)
                if execution.stdin.is_full:
                    self._connection.pause()
            case Kind.STDIN_EOF if execution.stdin is not None:
                execution.stdin.end()
            case Kind.RESIZE:
                size = json.loads(payload)
                execution.resize(as_size(size["cols"]), as_size(size["rows"]))
            case Kind.SIGNAL:
                execution.signal(int(json.loads(payload)["signal"]))
            case _:
                raise ValueError("not a frame of a stream")

    def close(self) -> None:
        """The client is gone; the execution goes on."""
        if self._execution.stdin is not None:
            self._execution.stdin.drained = None
        self._execution.detach()


def as_size(value: Any, default: int = 1) -> int:
    """Columns or rows as a terminal can have them. Raises ValueError, TypeError, OverflowError."""
    return min(65535, max(1, int(value))) if value is not None else default
