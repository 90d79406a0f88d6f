"""The boxes of a daemon in the guest: made and looked at through its API and through the guest's process table."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from tests.system.guest import SOCKET, Guest

FOREVER = ["/bin/sleep", "987654"]
Row = dict[str, Any]


class Boxes:
    """`socket` is the daemon's; `prefix` are words before each command that asks it (another user, say)."""

    def __init__(self, guest: Guest, socket: str = SOCKET, prefix: str = "") -> None:
        self._guest = guest
        self._where = {"socket": socket, "prefix": prefix}

    def ask(self, method: str, path: str, body: object = None) -> Any:
        return self._guest.ask(method, path, body, **self._where)

    def is_ready(self) -> bool:
        return self._guest.call("GET", "/readyz", **self._where)[0] == 200

    def create(self, cmd: list[str] | None = None, **spec: Any) -> Row:
        return dict(self.ask("POST", "/v1/boxes", {"image": "host", "cmd": cmd or FOREVER, **spec}))

    def start(self, ref: str) -> Row:
        return dict(self.ask("POST", f"/v1/boxes/{quote(ref)}/start"))

    def run(self, cmd: list[str] | None = None, **spec: Any) -> Row:
        return self.start(self.create(cmd, **spec)["box_id"])

    def get(self, ref: str) -> Row:
        return dict(self.ask("GET", f"/v1/boxes/{quote(ref)}"))

    def all(self) -> dict[str, Row]:
        """Box id -> row."""
        return {row["box_id"]: row for row in self.ask("GET", "/v1/boxes?pageSize=1000")["boxes"]}

    def until(self, ref: str, *statuses: str) -> Row:
        """The row, once it has one of these statuses."""
        found: Row = {}

        def look() -> bool:
            found.clear()
            found.update(self.get(ref))
            return found["status"] in statuses

        self._guest.until(look, f"box {ref} becomes {' or '.join(statuses)}")
        return found

    def ended(self, ref: str) -> Row:
        return self.until(ref, "stopped", "failed")

    def console(self, ref: str) -> str:
        return str(self.ask("GET", f"/v1/boxes/{quote(ref)}/logs"))

    def remove_all(self) -> None:
        for box_id in self.all():
            self.ask("DELETE", f"/v1/boxes/{box_id}?force=true")

    def processes(self, box: Row) -> dict[tuple[int, int], str]:
        """(pid, start) -> name of the shim and of everything below it, out of the process table."""
        table = self._guest.processes()
        found, wanted = {}, [box["pid"]]
        while wanted:
            process = table.get(wanted.pop())
            if process is not None:
                found[process.pid, process.started] = process.name
                wanted += [child.pid for child in table.values() if child.parent == process.pid]
        return found

    def lives(self) -> dict[str, tuple[Any, ...]]:
        """What must not change for a box that lives on: status, run, shim, and every process of it."""
        return {
            box_id: (row["status"], row["run_id"], row["pid"], tuple(sorted(self.processes(row).items())))
            for box_id, row in self.all().items()
        }

    def events(self, since: int = 0) -> list[Row]:
        """The events after number `since`, up to the newest."""
        last = self.last_event()
        if last <= since:
            return []
        socket, prefix = self._where["socket"], self._where["prefix"]
        text = self._guest.say(
            f"{prefix} curl -sN --max-time 60 --unix-socket {socket} 'http://localhost/v1/events?since={since}'"
            f" | sed -u '/\"seq\":{last}[,}}]/q'"
        )
        return [_decoded(line) for line in text.splitlines() if line.startswith("data:")]

    def last_event(self) -> int:
        return int(self.ask("GET", "/v1/metrics")["events_last_seq"])


def _decoded(line: str) -> Row:
    return dict(json.loads(line.removeprefix("data:")))
