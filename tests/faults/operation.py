"""What every operation that is cut has in common. Owns no fault: it does not know where it is cut, or whether."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from boxlited.errors import BoxlitedError
from tests.faults.bench import Bench

FOREVER = ["/bin/sleep", "987653"]


class Operation:
    """One subject for each point. `reached` asks the tracer, for what must be looked at again after a fault."""

    name = ""
    roles: tuple[str, ...] = ("main", "database", "worker")
    only: Mapping[str, frozenset[str]] = {}  # in a role: these calls; each other one is cut in another role
    promise: str | None = None  # the subject's status after a 2xx
    cut: str | None = None  # how its shim is cut, where it is
    pid = 0  # of its shim, where that is cut when it lives

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.daemon = bench.daemon
        self.subject = ""

    def prepare(self) -> None:
        """Up to the moment before the operation."""

    def act(self, reached: Callable[[], bool]) -> bool:
        raise NotImplementedError

    def again(self) -> None:
        """Without a fault it must succeed, whatever was left."""
        raise NotImplementedError

    def check(self, said_yes: bool) -> None:
        """What the oracle cannot know of this operation; the daemon has settled."""

    def told(self) -> tuple[str, str | None, int | None]:
        """How the subject is said to have ended."""
        row = self.daemon.get(self.subject)
        return row["status"], row["stop_cause"], row["exit_code"]

    def clear(self) -> None:
        """Leave the home as small as it was."""
        for box_id in self.daemon.table():
            if box_id != self.bench.bystander["box_id"]:
                self.daemon.client.remove(box_id, force=True)

    def asked(self, command: Callable[[], Any]) -> bool:
        try:
            command()
        except BoxlitedError:
            return False
        return True
