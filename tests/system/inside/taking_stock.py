"""What is there: rows and events by the API; shims, processes and leftovers by the kernel; each box's directory; and
whether the database is whole. One JSON object.

taking_stock.py HOME SOCKET DAEMON
"""

import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

from boxlited.client.client import Client
from tests.integration import leftovers

LEFTOVERS_SECONDS = 20.0


def directories(home: Path) -> dict[str, Any]:
    """Box id -> its box.json, or what is wrong with it."""
    found: dict[str, Any] = {}
    for directory in (home / "boxes").iterdir():
        try:
            found[directory.name] = json.loads((directory / "box.json").read_text())
        except (OSError, ValueError) as error:
            found[directory.name] = f"{type(error).__name__}: {error}"
    return found


def processes(shim: int) -> list[str]:
    """The shim and everything below it: pid, start, name."""
    found = []
    for pid in sorted({shim, *leftovers.descendants(shim)}):
        head, _, tail = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
        found.append(f"{pid} {tail.split()[19]} {head.partition('(')[2]}")
    return found


def main() -> None:
    home, socket, daemon = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    with Client(socket) as client:
        rows = client.list()
        with client.events(0, follow=False) as stream:
            events = [[event["seq"], event["kind"], event["box_id"]] for event in stream]
    database = sqlite3.connect(f"file:{home}/db/boxlited.db?mode=ro", uri=True)
    integrity = [row[0] for row in database.execute("PRAGMA integrity_check")]
    database.close()
    shims = leftovers.shims(home)
    stock = {
        "rows": rows,
        "events": events,
        "shims": shims,
        "processes": {box_id: processes(pid) for box_id, pid in shims},
        "left": leftovers.left(daemon, home, home, shims, LEFTOVERS_SECONDS),
        "directories": directories(home),
        "integrity": integrity,
        "set_aside": sorted(path.name for path in (home / "db").glob("*corrupt*")),
        "quarantined": sorted(path.name for path in (home / "quarantine").iterdir()),
    }
    print(json.dumps(stock))


if __name__ == "__main__":
    main()
