"""The operations that end a box, or see it end; and that the end is told as what it was, wherever that is cut."""

from __future__ import annotations

from collections.abc import Callable

from tests.faults.operation import FOREVER, Operation
from tests.integration.daemon_harness import is_alive, kill_pid, until

ENDS, CODE = ["/bin/sh", "-c", "touch /root/ready; until test -e /root/go; do sleep 0.01; done; exit 3"], 3
KILLED, TERMINATED = 137, 143
GRACE_SECONDS = 3.0  # a shim that was cut may not pass on that it is to stop


class Stop(Operation):
    name = "stop"
    roles = ("main", "database", "shim that lives")
    promise = "stopped"

    def prepare(self) -> None:
        box = self.daemon.run(FOREVER)
        self.subject, self.pid = box["box_id"], box["pid"]

    def act(self, reached: Callable[[], bool]) -> bool:
        return self.asked(lambda: self.daemon.client.stop(self.subject, GRACE_SECONDS))

    def check(self, said_yes: bool) -> None:
        """By the stop's own signal, or by that of who does not wait any longer; or it has not been stopped."""
        ends = {("stopped", "user", code) for code in (TERMINATED, KILLED)}
        assert self.told() in ends | (set() if said_yes else {("running", None, None)}), f"7: told as {self.told()}"

    def again(self) -> None:
        assert self.daemon.client.stop(self.subject)["status"] == "stopped"


class Kill(Stop):
    """A stop without grace: through the shim, and then the shim itself."""

    name = "kill"
    roles = ("main",)
    only = {"main": frozenset({"pidfd_send_signal"})}  # noqa: RUF012

    def act(self, reached: Callable[[], bool]) -> bool:
        return self.asked(lambda: self.daemon.client.kill(self.subject))

    def check(self, said_yes: bool) -> None:
        super().check(said_yes)
        assert not said_yes or self.told()[2] == KILLED, f"7: told as {self.told()}"


class Watched(Operation):
    """An end that nobody asked for; the daemon is to notice it and to say so."""

    roles = ("main", "database", "spawner")
    only = {"spawner": frozenset({"openat", "sendmsg"})}  # noqa: RUF012 - what it writes goes to a pipe of its own

    def until_told(self, reached: Callable[[], bool]) -> bool:
        """False: the daemon is no longer there."""
        asked_again = False

        def is_told() -> list[bool]:
            nonlocal asked_again
            if not self.bench.is_up:
                return [False]
            if self.asked(self._note_end) and self.promise is not None:
                return [True]
            if not asked_again and reached():
                asked_again = True
                self.asked(self.daemon.client.reconcile)
            return []

        return bool(until(is_told, "the end is told")[0])

    def _note_end(self) -> None:
        """What was told must stay so."""
        status = self.daemon.get(self.subject)["status"]
        self.promise = status if status in ("failed", "stopped") else None

    def again(self) -> None:
        assert not is_alive(self.pid)
        assert self.daemon.client.start(self.subject)["status"] == "running"


class Crash(Watched):
    """The shim dies by a SIGKILL of somebody else."""

    name = "crash"

    def prepare(self) -> None:
        box = self.daemon.run(FOREVER)
        self.subject, self.pid = box["box_id"], box["pid"]

    def act(self, reached: Callable[[], bool]) -> bool:
        kill_pid(self.pid)
        return self.until_told(reached)

    def check(self, said_yes: bool) -> None:
        """Only a daemon that was killed itself, and has begun anew, does not know what it was."""
        ends = {("failed", "shim_killed", KILLED)} | (set() if said_yes else {("stopped", "lost", None)})
        assert self.told() in ends, f"7: told as {self.told()}"


class End(Watched):
    """A workload ends by itself; its shim records how, and the daemon tells it."""

    name = "end"
    roles = (*Watched.roles, "shim that lives")

    def prepare(self) -> None:
        box = self.daemon.run(ENDS)
        self.subject, self.pid = box["box_id"], box["pid"]

    def act(self, reached: Callable[[], bool]) -> bool:
        upper = self.daemon.box_dir(self.subject) / "upper"
        until((upper / "ready").exists, "the workload waits")
        (upper / "go").touch()
        return self.until_told(reached)

    def check(self, said_yes: bool) -> None:
        """As it was; or, where the shim was cut, by the shim's own end."""
        ends = {("stopped", "exited", CODE)}
        if self.cut == "kill":
            ends.add(("failed", "shim_killed", KILLED))
        elif self.cut is not None:
            ends.add(("failed", "shim_killed", CODE))
        assert self.told() in ends, f"7: told as {self.told()}"
        if self.told() == ("failed", "shim_killed", CODE):
            reason = self.daemon.get(self.subject)["failure_reason"]
            assert f"its shim exited with code {CODE}" in reason, f"7: nobody understands {reason!r}"
            assert "killed" not in reason, f"7: nobody was killed: {reason!r}"
