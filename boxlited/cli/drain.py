"""`boxlited drain`: stop every box of a running daemon, with progress."""

from __future__ import annotations

import sys
from concurrent.futures import Future, ThreadPoolExecutor, as_completed

from boxlited.client.client import Client
from boxlited.client.values import BoxInfo
from boxlited.errors import BoxlitedError

PARALLEL = 8
LIVE = frozenset({"running", "stopping", "paused", "unknown"})


def drain(socket: str | None, timeout_seconds: float) -> int:
    """Returns 0 when every box is stopped, 1 when one is not, 4 when no daemon answers."""
    try:
        with Client(socket) as client:
            return _drain(client, [box for box in client.list() if _is_wanted(box)], timeout_seconds)
    except BoxlitedError as error:
        print(f"boxlited: {error.message}", file=sys.stderr)
        return 4 if error.code in ("no_daemon", "socket_forbidden") else 1


def _is_wanted(box: BoxInfo) -> bool:
    return box["status"] in LIVE or box["desired"] in ("running", "restarted")


def _drain(client: Client, boxes: list[BoxInfo], timeout_seconds: float) -> int:
    failures = 0
    with ThreadPoolExecutor(PARALLEL) as pool:
        pending: dict[Future[BoxInfo], str] = {
            pool.submit(client.stop, box["box_id"], timeout_seconds): box["name"] for box in boxes
        }
        for number, future in enumerate(as_completed(pending), 1):
            outcome = "stopped"
            try:
                future.result()
            except BoxlitedError as error:
                failures += 1
                outcome = f"NOT stopped: {error.message}"
            print(f"[{number}/{len(boxes)}] {pending[future]}: {outcome}", flush=True)
    print(f"{len(boxes) - failures} of {len(boxes)} boxes stopped")
    return 1 if failures else 0
