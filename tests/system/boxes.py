"""The boxes of a daemon in the guest: made and looked at through its API and through the guest's process table."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from tests.oracle import Promised, World, broken, changed
from tests.system.guest import SOCKET, Guest
from tests.system.verdict import world

FOREVER = ["/bin/sleep", "987654"]
HOME = "/var/lib/boxlited"
STOCK_SECONDS = 300.0
# Two processes that are nothing to boxlited, begun when they are not there; their pids.
STRANGERS = """
for n in 1 2; do
  systemctl -q is-active stranger-$n || systemd-run -q --collect --unit=stranger-$n sleep infinity
  systemctl show -P MainPID stranger-$n
done
"""
Row = dict[str, Any]


class Boxes:
    """`socket` and `home` are the daemon's; `prefix` are words before each command that asks it (another user, say),
    `manager` those that ask for its unit."""

    def __init__(
        self, guest: Guest, socket: str = SOCKET, prefix: str = "", home: str = HOME, manager: str = "systemctl"
    ) -> None:
        self._guest = guest
        self._where = {"socket": socket, "prefix": prefix}
        self._home = home
        self._manager = manager
        self._strangers: set[tuple[int, int]] = set()

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

    # -- the oracle

    def take_stock(self) -> Row:
        """Everything that is to be seen, once the daemon answers; see `inside/taking_stock.py`."""
        program = self._guest.program("taking_stock.py")
        pid = f"$({self._manager} show -P MainPID boxlited)"
        words = f"{program} {self._home} {self._where['socket']} {pid}"
        return dict(json.loads(self._guest.run(words, STOCK_SECONDS).out))

    def look(self) -> World:
        """As the oracle takes it; with strangers, which must not be signalled between the first look and the last."""
        return self.look_closely()[1]

    def look_closely(self) -> tuple[Row, World]:
        """The whole stock, and what the oracle takes of it."""
        if not self._strangers:
            pids = {int(pid) for pid in self._guest.say(STRANGERS).split()}
            table = self._guest.processes()
            self._strangers = {(pid, table[pid].started) for pid in pids}
        stock = self.take_stock()
        alive = {(process.pid, process.started) for process in self._guest.processes().values()}
        return stock, world(stock, sorted(self._strangers - alive))

    def check(self, before: World) -> None:
        """Whatever was done since, no box has felt it, and every invariant holds."""
        after = self.look()
        problems = broken(after, Promised()) + changed(before, after)
        assert problems == [], "; ".join(problems)

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
