"""What the daemon may ask of a shim, and the answers. Owns the table of the box's executions.

A request is one JSON object with `op`; so is its reply: `{"ok": true, ...}` or `{"ok": false, "kind", "message"}`.
Nothing here trusts that a request is well formed. Standard library only.
"""

import gc
import json
import math
import re
from collections.abc import Callable
from typing import Any

from boxlited.shim.control import Connection
from boxlited.shim.engines import engine_of
from boxlited.shim.engines.base import EngineError
from boxlited.shim.executions import Execution
from boxlited.shim.files import serve_files
from boxlited.shim.frames import Kind
from boxlited.shim.guest import Command
from boxlited.shim.loop import Loop
from boxlited.shim.streams import Stream, as_size
from boxlited.shim.users import check_user
from boxlited.shim.workload import Workload

MAX_RUNNING = 512
MAX_ENDED = 64  # how many ended executions are remembered, the newest
MAX_UNTOLD = 256  # and how many of those whose end nobody has heard yet: whoever asked for one is on his way to it
UNTOLD_SECONDS = 60.0
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

Json = dict[str, Any]


class Requests:
    """Serves the requests of proven clients for one run of one box."""

    def __init__(self, spec: Json, workload: Workload, loop: Loop) -> None:
        self._spec = spec
        self._workload = workload
        self._loop = loop
        self._executions: dict[str, Execution] = {}
        self._starting: dict[str, list[Callable[[Json], None]]] = {}
        self._streams: dict[Connection, Stream] = {}
        self._operations: dict[str, Callable[[Connection, Json], Json | None]] = {
            "ping": lambda _connection, _request: {"ok": True},
            "exec": self._exec,
            "list": self._list,
            "inspect": self._inspect,
            "signal": self._signal,
            "resize": self._resize,
            "delete": self._delete,
            "attach": self._attach,
            "put_files": self._files,
            "get_files": self._files,
        }

    def handle(self, connection: Connection, kind: int, payload: bytes) -> None:
        """One frame. Garbage collection begins with the first: a shim that is never asked never needs it."""
        if not gc.isenabled():
            gc.enable()
        stream = self._streams.get(connection)
        if stream is not None:
            stream.hear(kind, payload)
        elif kind == Kind.REQUEST:
            reply = self._answer(connection, payload)
            if reply is not None:
                _say(connection, reply)
        else:
            connection.close()

    def _answer(self, connection: Connection, payload: bytes) -> Json | None:
        try:
            request = json.loads(payload)
            return self._operations[request["op"]](connection, request)
        except EngineError as error:
            return _refusal(error)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            return {"ok": False, "kind": "internal", "message": f"the shim does not understand the request: {error!r}"}
        except OSError as error:
            return {"ok": False, "kind": "resource_exhausted", "message": f"the shim could not do it: {error.strerror}"}

    # -- operations

    def _exec(self, connection: Connection, request: Json) -> Json | None:
        execution_id = request["execution_id"]
        if not isinstance(execution_id, str) or _ID.fullmatch(execution_id) is None:
            raise ValueError("execution_id")
        known = self._executions.get(execution_id)
        if known is not None:  # the same request again: its first reply was lost
            return {"ok": True, "execution": known.view()}
        waiting = self._starting.get(execution_id)
        if waiting is not None:
            waiting.append(lambda reply: _say(connection, reply))
            return None
        running = sum(1 for execution in self._executions.values() if execution.exit_code is None)
        if running + len(self._starting) >= MAX_RUNNING:
            raise EngineError("resource_exhausted", f"{running} commands run in this box already: wait for some to end")
        self._begin(execution_id, self._command(request), connection)
        return None

    def _begin(self, execution_id: str, command: Command, connection: Connection) -> None:
        execution = Execution(execution_id, command, self._loop)

        def done(error: EngineError | None) -> None:
            if error is None:
                self._executions[execution_id] = execution
                self._forget_old()
            reply = {"ok": True, "execution": execution.view()} if error is None else _refusal(error)
            for say in self._starting.pop(execution_id):
                say(reply)

        execution.begin(self._workload.pid, self._workload.pidfd, done)
        self._starting[execution_id] = [lambda reply: _say(connection, reply)]

    def _command(self, request: Json) -> Command:
        engine = engine_of(self._spec)
        check_user(request.get("user"), *engine.identity(self._spec))
        tty = bool(request.get("tty"))
        env = engine.environment(self._spec)
        if tty:
            env.setdefault("TERM", "xterm")
        timeout = request.get("timeout_seconds")
        if timeout is not None and not (math.isfinite(float(timeout)) and float(timeout) > 0):
            raise ValueError("timeout_seconds")
        return Command(
            argv=[str(request["command"]), *map(str, request.get("args") or ())],
            env={**env, **{str(key): str(value) for key, value in (request.get("env") or {}).items()}},
            directory=str(request.get("working_dir") or engine.directory(self._spec)),
            tty=tty,
            cols=as_size(request.get("cols"), 80),
            rows=as_size(request.get("rows"), 24),
            timeout_seconds=None if timeout is None else _seconds(timeout),
        )

    def _list(self, _connection: Connection, _request: Json) -> Json:
        return {"ok": True, "executions": [execution.view() for execution in self._executions.values()]}

    def _inspect(self, _connection: Connection, request: Json) -> Json:
        return {"ok": True, "execution": self._known(request).view()}

    def _signal(self, _connection: Connection, request: Json) -> Json:
        execution = self._known(request)
        if not execution.signal(int(request["signal"])):
            raise EngineError("invalid_state", f"execution {execution.id} has ended: there is nothing to signal")
        return {"ok": True}

    def _resize(self, _connection: Connection, request: Json) -> Json:
        execution = self._known(request)
        execution.resize(as_size(request["cols"]), as_size(request["rows"]))
        return {"ok": True}

    def _delete(self, _connection: Connection, request: Json) -> Json:
        execution = self._known(request)
        del self._executions[execution.id]
        execution.kill()
        return {"ok": True}

    def _attach(self, connection: Connection, request: Json) -> None:
        execution = self._known(request)
        if execution.attached:
            raise EngineError("already_exists", f"somebody is attached to execution {execution.id} already")
        since = request.get("since")
        stream = Stream(execution, connection, None if since is None else int(since))
        self._streams[connection] = stream

        def closed() -> None:
            self._streams.pop(connection, None)
            stream.close()

        connection.closed = closed
        _say(
            connection,
            {"ok": True, "execution": execution.view(), "position": stream.position, "queued": stream.queued},
        )
        stream.begin()

    def _files(self, connection: Connection, request: Json) -> None:
        serve_files(connection, request, self._workload, self._loop)

    # -- the table

    def _known(self, request: Json) -> Execution:
        execution = self._executions.get(str(request["execution_id"]))
        if execution is None:
            raise EngineError(
                "not_found", f"there is no execution {str(request['execution_id'])[:100]!r} in this run of the box"
            )
        return execution

    def _forget_old(self) -> None:
        """The oldest of those that ended; of a crowd that ends at once none, before its clients have come."""
        ended = [
            execution for execution in self._executions.values() if execution.is_drained and not execution.attached
        ]
        done = [execution for execution in ended if execution.is_told or execution.ended_for() > UNTOLD_SECONDS]
        gone = done[: max(0, len(ended) - MAX_ENDED)]
        left = [execution for execution in ended if execution not in gone]
        for execution in gone + left[: max(0, len(left) - MAX_UNTOLD)]:
            del self._executions[execution.id]


def _seconds(value: Any) -> float:
    """JSON as Python reads it has a NaN: in a row of timers it would never be due, and let none sleep."""
    seconds = float(value)
    if not seconds > 0:
        raise ValueError("seconds")
    return seconds


def _refusal(error: EngineError) -> Json:
    return {"ok": False, "kind": error.kind, "message": str(error)}


def _say(connection: Connection, reply: Json) -> None:
    connection.send_frame(Kind.REPLY, json.dumps(reply).encode())
