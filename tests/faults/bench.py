"""The home that one point after the other is cut in: a daemon, a bystander box, and what is held at a gate.

Owns the daemon between two points. After a violation the home is thrown away, so that no
point suffers from an earlier one.
"""

from __future__ import annotations

import grp
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from boxlited.errors import BoxlitedError
from tests.integration.daemon_harness import READY_SECONDS, Daemon, reader_at, until
from tests.integration.leftovers import children

# Nothing happens by itself: no pass falls into the counting. What a fault left is looked at by `reconcile`.
# The group is one that the first source of names knows.
CONFIG = f"""
[engines]
enabled = ['sandbox', 'process']
[reconcile]
period_seconds = 3600
[api]
group = '{grp.getgrgid(os.getgid()).gr_name}'
"""


class Bench:
    """A served home. `daemon` is alive between two points."""

    def __init__(self) -> None:
        self.daemon = Daemon(CONFIG, is_traced=True)
        self.gate = self.daemon.root / "gate"
        self.acted = self.daemon.root / "acted"
        self.trace = self.daemon.root / "trace"
        os.mkfifo(self.gate)
        try:
            self.daemon.start()
            self.bystander = self.daemon.run()
            self.warm_up()
        except BaseException:
            self.daemon.close()
            raise

    def close(self) -> None:
        self.daemon.close()

    def warm_up(self) -> None:
        """What is loaded or begun once is not counted; and a worker waits for the next piece of work."""
        box = self.daemon.create(["/bin/true"])
        self.daemon.client.start(box["box_id"])
        self.daemon.client.wait(box["box_id"], 20)
        self.daemon.client.remove(box["box_id"])

    @property
    def pid(self) -> int:
        assert self.daemon.process is not None
        return self.daemon.process.pid

    @property
    def is_up(self) -> bool:
        return self.daemon.process is not None and self.daemon.process.poll() is None

    def spawner(self) -> int:
        """The daemon's only child."""
        found = children(self.pid)
        assert len(found) == 1, f"the daemon has the children {found}"
        return found[0]

    def database(self) -> list[Path]:
        """The files of the database, there or not."""
        return [self.daemon.home / "db" / f"boxlited.db{suffix}" for suffix in ("", "-wal", "-shm", "-journal")]

    def relaunch(self, env: dict[str, str]) -> None:
        """In the place of the daemon that is there, one with another environment; does not wait for it."""
        if self.is_up:
            self.daemon.kill9()
        self.daemon.drop_client()
        self.daemon.launch(env)

    def settle_start(self) -> bool:
        """Wait until the daemon answers, or has ended. Says whether it answers."""

        def decided() -> list[bool]:
            if not self.is_up:
                return [False]
            try:
                self.daemon.client.health()
            except BoxlitedError:
                return []
            return [True]

        serves: bool = until(decided, "the daemon answers or ends", READY_SECONDS)[0]
        if not serves:
            self.daemon.drop_client()
        return serves

    def settle_boxes(self) -> None:
        """Look at every box as the next period would, and wait until none is on its way."""
        self.daemon.client.reconcile()
        self.flush()
        until(self._at_rest, "every box is at rest")

    def flush(self) -> None:
        """What a failing disk held back goes with the next commit."""
        self.daemon.client.reset_failed(self.bystander["box_id"])

    def _at_rest(self) -> bool:
        return all(row["status"] not in ("stopping", "unknown") for row in self.daemon.table().values())


def open_gate(gate: Path, came: Callable[[], Any]) -> Any:
    """Wait until somebody is held at the gate, call `came` while he is, and let him go."""
    descriptor = reader_at(gate)
    try:
        return came()
    finally:
        os.close(descriptor)


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except FileNotFoundError:
        return ""
