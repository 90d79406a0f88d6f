"""The sixth line of the oracle: whatever became of the boxes, no descriptor and no process is left of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from boxlited.errors import BoxlitedError
from tests.integration.daemon_harness import Daemon, kill_pid, until
from tests.integration.processes import children, spawner_of

CONFIG = "[engines]\nenabled = ['sandbox', 'process']\n[reconcile]\nperiod_seconds = 0.2\njitter = 0.0\n"
ROUNDS = 3


def held(pid: int) -> dict[str, int]:
    """What a process has open, counted by kind: `pipe`, `socket`, or the path."""
    kinds: dict[str, int] = {}
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            kind = os.readlink(fd).partition(":[")[0]
        except FileNotFoundError:
            continue
        kinds[kind] = kinds.get(kind, 0) + 1
    return kinds


def live_through(daemon: Daemon) -> None:
    """Every way that a box can take, once."""
    for engine in ("sandbox", "process"):
        box = daemon.run(engine=engine)
        daemon.client.stop(box["box_id"])
        again = daemon.client.start(box["box_id"])
        daemon.client.restart(box["box_id"], 5)
        daemon.client.remove(again["box_id"], force=True)
    ended = daemon.run(["/bin/sh", "-c", "kill -ABRT $$"], restart={"policy": "on-failure", "max_retries": 1})
    daemon.until_box(ended["box_id"], lambda row: row["desired"] == "stopped", "gives up")
    killed = daemon.run()
    kill_pid(killed["pid"])
    daemon.wait_status(killed["box_id"], "failed")
    refused = daemon.create(["no-such-command"])
    with pytest.raises(BoxlitedError):
        daemon.client.start(refused["box_id"])
    daemon.run(["/bin/true"], auto_remove=True)
    for box_id in (ended["box_id"], killed["box_id"], refused["box_id"]):
        daemon.client.remove(box_id)
    until(lambda: not daemon.table(), "the last box has removed itself")


def test_lives_and_deaths_of_boxes_leave_no_descriptor_and_no_process() -> None:
    with Daemon(CONFIG) as daemon:
        daemon.start()
        assert daemon.process is not None
        live_through(daemon)  # whatever is opened once and kept is open now
        pids = {"daemon": daemon.process.pid, "spawner": spawner_of(daemon)}
        before = {name: until(lambda p=pid: held(p), "it is looked at") for name, pid in pids.items()}  # type: ignore[misc]
        for _ in range(ROUNDS):
            live_through(daemon)
        for name, pid in pids.items():
            until(lambda n=name, p=pid: held(p) == before[n], f"the {name} holds what it held: {before[name]}")  # type: ignore[misc]
        until(lambda: children(pids["spawner"]) == [], "every shim is reaped")
        assert daemon.shims() == []
        until(lambda: not list((daemon.home / "quarantine").iterdir()), "no directory is left")
