"""The operations that are cut: how each is prepared, asked for, what a 2xx of it promises, and asked for again.

`act` returns whether the daemon said 2xx; a refusal is a `BoxlitedError`, which means neither yes nor no.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.faults.ends import Crash, End, Kill, Stop
from tests.faults.operation import FOREVER, Operation
from tests.integration.daemon_harness import is_alive, kill_pid, until

DEAF = ["/bin/sh", "-c", "trap '' USR1; echo deaf; exec sleep 987652"]
BELOW_MAIN = frozenset({"pwrite64", "fdatasync", "ftruncate", "renameat", "unlinkat", "dup2", "setsid"})
STRAY = "2222222222222222"  # a box id that no row has


class Create(Operation):
    name = "create"
    promise = "configured"

    def act(self, reached: Callable[[], bool]) -> bool:
        def create() -> None:
            self.subject = self.daemon.create(FOREVER, name="subject")["box_id"]

        return self.asked(create)

    def check(self, said_yes: bool) -> None:
        named = [box_id for box_id, row in self.daemon.table().items() if row["name"] == "subject"]
        assert named == [self.subject] if said_yes else len(named) <= 1, f"4: {named} were created, {self.subject} said"

    def again(self) -> None:
        self.daemon.client.start(self.daemon.create(FOREVER, name="after")["box_id"])


class Start(Operation):
    name = "start"
    roles = ("main", "database", "spawner", "shim")
    promise = "running"

    def prepare(self) -> None:
        self.subject = self.daemon.create(FOREVER)["box_id"]

    def act(self, reached: Callable[[], bool]) -> bool:
        return self.asked(lambda: self.daemon.client.start(self.subject))

    def again(self) -> None:
        assert self.daemon.client.start(self.subject)["status"] == "running"


class Remove(Operation):
    name = "remove"

    def prepare(self) -> None:
        self.subject = self.daemon.run(["/bin/true"])["box_id"]
        self.daemon.client.wait(self.subject, 20)

    def act(self, reached: Callable[[], bool]) -> bool:
        return self.asked(lambda: self.daemon.client.remove(self.subject))

    def check(self, said_yes: bool) -> None:
        assert not said_yes or self.subject not in self.daemon.table(), "4: a removed box is back"

    def again(self) -> None:
        if self.subject in self.daemon.table():
            self.daemon.client.remove(self.subject)
        assert self.subject not in self.daemon.table()


class Event(Operation):
    """A signal that the workload ignores: nothing is changed but the log."""

    name = "event append"
    roles = ("main", "database")
    promise = "running"
    since = 0

    def prepare(self) -> None:
        self.subject = self.daemon.run(DEAF)["box_id"]
        log = self.daemon.box_dir(self.subject) / "logs" / "console.log"
        until(lambda: log.exists() and b"deaf" in log.read_bytes(), "the workload ignores its signal")
        self.since = self.daemon.client.last_event_seq()

    def act(self, reached: Callable[[], bool]) -> bool:
        return self.asked(lambda: self.daemon.client.kill(self.subject, 10))

    def check(self, said_yes: bool) -> None:
        with self.daemon.client.events(self.since, follow=False) as events:
            told = [event for event in events if event["kind"] == "signalled"]
        assert len(told) == 1 if said_yes else len(told) <= 1, f"4: {len(told)} events tell of the signal"

    def again(self) -> None:
        self.daemon.client.kill(self.subject, 10)


class Exec(Operation):
    """A command beside the workload."""

    name = "exec"
    roles = ("main", "database")
    promise = "running"

    def prepare(self) -> None:
        self.subject = self.daemon.run(FOREVER)["box_id"]

    def act(self, reached: Callable[[], bool]) -> bool:
        return self.asked(self._exec)

    def again(self) -> None:
        execution = self._exec()
        client = self.daemon.client
        until(lambda: client.execution(self.subject, execution)["status"] == "completed", "the command ends")

    def _exec(self) -> str:
        return str(self.daemon.client.exec(self.subject, "/bin/true")["execution_id"])


class Recovery(Operation):
    """A daemon starts: one box died meanwhile, one has an exit file of an earlier life, one directory is nobody's."""

    name = "recovery"
    roles = ("recovery main", "recovery all", "recovery database")
    only = {"recovery all": BELOW_MAIN, "recovery database": frozenset({"pread64", "openat"})}  # noqa: RUF012

    def prepare(self) -> None:
        box = self.daemon.run(FOREVER)
        self.subject = box["box_id"]
        self.daemon.kill9()
        kill_pid(box["pid"])
        until(lambda: not is_alive(box["pid"]), "the shim ends")
        stale = {"type": "signal", "exit_code": 134, "signal": "SIGABRT", "run_id": "0" * 32}
        (self.daemon.box_dir(self.bench.bystander["box_id"]) / "exit").write_text(json.dumps(stale))
        (self.daemon.home / "boxes" / STRAY).mkdir()
        doomed = self.daemon.home / "quarantine" / "removed-half"
        (doomed / "upper").mkdir(parents=True, exist_ok=True)
        (doomed / "box.json").touch()

    def act(self, reached: Callable[[], bool]) -> bool:
        return self.bench.settle_start()

    def check(self, said_yes: bool) -> None:
        assert self.told() == ("stopped", "lost", None), f"7: told as {self.told()}"
        set_aside = list((self.daemon.home / "db").glob("*corrupt*"))
        assert set_aside == [], f"4: a database that is whole was set aside: {set_aside}"

    def again(self) -> None:
        assert self.daemon.client.start(self.subject)["status"] == "running"

    def clear(self) -> None:
        super().clear()
        for entry in (self.daemon.home / "quarantine").iterdir():
            shutil.rmtree(entry)


class Rebuild(Recovery):
    """A daemon starts and its database is no database: every box must come back from its directory."""

    name = "rebuild"
    roles = ("recovery all",)
    only = {"recovery all": frozenset({"pwrite64", "fdatasync", "rename"})}  # noqa: RUF012

    def prepare(self) -> None:
        box = self.daemon.run(FOREVER)
        self.subject = box["box_id"]
        self.daemon.kill9()
        database = self.daemon.home / "db" / "boxlited.db"
        for suffix in ("-wal", "-shm"):
            Path(f"{database}{suffix}").unlink(missing_ok=True)
        database.write_bytes(b"this is no database" * 100)

    def check(self, said_yes: bool) -> None:
        rows = self.daemon.table()
        assert rows[self.subject]["status"] == "running", f"4: not rebuilt: {rows}"

    def again(self) -> None:
        assert self.daemon.client.stop(self.subject)["status"] == "stopped"

    def clear(self) -> None:
        super().clear()
        for entry in (self.daemon.home / "db").glob("*.corrupt-*"):
            entry.unlink()


OPERATIONS: dict[str, type[Operation]] = {
    one.name: one for one in (Create, Start, Stop, Kill, Remove, Crash, End, Event, Exec, Recovery, Rebuild)
}
