"""What is there: rows and events by the API, each box's directory, and whether the database is whole. One JSON object.

taking_stock.py HOME
"""

import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

from boxlited.client.client import Client


def directories(home: Path) -> dict[str, Any]:
    """Box id -> its box.json, or what is wrong with it."""
    found: dict[str, Any] = {}
    for directory in (home / "boxes").iterdir():
        try:
            found[directory.name] = json.loads((directory / "box.json").read_text())
        except (OSError, ValueError) as error:
            found[directory.name] = f"{type(error).__name__}: {error}"
    return found


def main() -> None:
    home = Path(sys.argv[1])
    with Client("/run/boxlited/boxlited.sock") as client:
        rows = client.list()
        with client.events(0, follow=False) as stream:
            events = [[event["seq"], event["kind"], event["box_id"]] for event in stream]
    database = sqlite3.connect(f"file:{home}/db/boxlited.db?mode=ro", uri=True)
    integrity = [row[0] for row in database.execute("PRAGMA integrity_check")]
    database.close()
    stock = {
        "rows": rows,
        "events": events,
        "directories": directories(home),
        "integrity": integrity,
        "set_aside": sorted(path.name for path in (home / "db").glob("*corrupt*")),
        "quarantined": sorted(path.name for path in (home / "quarantine").iterdir()),
    }
    print(json.dumps(stock))


if __name__ == "__main__":
    main()
