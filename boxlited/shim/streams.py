"""One client attached to one execution: output to it as fast as it takes it, input from it.

Bounded: no more than a window is on its way unacknowledged, and input that the command does not take
keeps the client waiting. Standard library only.
"""

import json

from boxlited.shim.control import Connection
from boxlited.shim.engines.base import EngineError
from boxlited.shim.executions import Execution
from boxlited.shim.frames import OFFSET, Kind

SEND_BYTES = 256 * 1024
WINDOW_BYTES = 1 << 20
NOT_UNDERSTOOD = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)  # JSON of any shape


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

    def begin(self) -> None:
        self._execution.attach(self._push)
        self._connection.pull = self._push
        if self._execution.stdin is not None:
            self._execution.stdin.drained = self._connection.unpause
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
            self._ended = True
            self._connection.send_frame(Kind.EXIT, json.dumps(self._execution.view()).encode())

    def hear(self, kind: int, payload: bytes) -> None:
        """A frame of the client. Raises nothing: what makes no sense ends the connection."""
        try:
            self._hear(kind, payload)
        except EngineError as error:
            self._connection.send_frame(Kind.NOTICE, str(error).encode())
        except (*NOT_UNDERSTOOD, OSError):
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
                execution.resize(int(size["cols"]), int(size["rows"]))
            case Kind.SIGNAL:
                execution.signal(int(json.loads(payload)["signal"]))
            case _:
                raise ValueError("not a frame of a stream")

    def close(self) -> None:
        """The client is gone; the execution goes on."""
        if self._execution.stdin is not None:
            self._execution.stdin.drained = None
        self._execution.detach()
