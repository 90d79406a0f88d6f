"""Runs the real daemon in a temporary home, kills it, restarts it; and the oracle after each fault.

Every process that a test made is found again through the home's own path and ended by pidfd.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from boxlited.client.client import Client
from boxlited.errors import BoxlitedError
from tests.integration import cgroups, leftovers

READY_SECONDS = 30.0
DEADLINE_SECONDS = 30.0
LEFTOVERS_SECONDS = 10.0
FOREVER = ["/bin/sleep", "987654"]
DISK = "/var/tmp"
STABLE_KEYS = ("box_id", "name", "status", "desired", "pid", "run_id", "stop_cause", "failure_reason", "exit_code")

T = TypeVar("T")


def until(look: Callable[[], T], what: str, seconds: float = DEADLINE_SECONDS) -> T:
    """Poll until `look` gives something true; fails with `what` at the deadline.

    The last look is after the deadline: one who did not run for so long has seen nothing of what came.
    """
    end = time.monotonic() + seconds
    while True:
        is_last = time.monotonic() >= end
        value = look()
        if value:
            return value
        assert not is_last, f"timed out: {what}"
        time.sleep(0.005)


def is_alive(pid: int) -> bool:
    """Alive and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def kill_pid(pid: int) -> None:
    """SIGKILL; one that has ended already is as good."""
    with suppress(ProcessLookupError):
        signal_pid(pid, signal.SIGKILL)


def signal_pid(pid: int, number: int) -> None:
    """Through a pidfd; refuses what is never ours."""
    assert pid > 1
    assert pid != os.getpid()
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, number)
    finally:
        os.close(pidfd)


def reader_at(fifo: Path) -> int:
    """Wait until somebody is held at a FIFO's reading end; returns the descriptor that holds him until it is closed."""

    def come() -> list[int]:
        try:
            return [os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)]
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return []

    return until(come, f"somebody is held at {fifo.name}")[0]


OPEN: list[Daemon] = []  # a failed test reports their logs, and that of the last one closed
CLOSED_LOGS: list[str] = []


class Daemon:
    """One home and the daemon that serves it. `close` leaves no process and no file."""

    def __init__(self, config: str | None = None, *, on_disk: bool = False) -> None:
        """`on_disk`: the home is on a disk, also where other tests have theirs in memory."""
        self.root = Path(tempfile.mkdtemp(prefix="bxt", dir=DISK if on_disk else None))
        self.home = self.root / "home"
        self.socket = self.root / "s" / "boxlited.sock"
        self.log = self.root / "daemon.log"
        self.failpoints = self.root / "failpoints"
        self.config: Path | None = None
        if config is not None:
            self.config = self.root / "boxlited.toml"
            self.config.write_text(config)
        self.env: dict[str, str] = {}  # that it was last started with, beyond our own
        self.prefix: list[str] = []  # words before the command; they must execute it in their place
        self.process: subprocess.Popen[bytes] | None = None
        self.sentinels = [subprocess.Popen(["sleep", "7200"]) for _ in range(2)]
        self.sleepers: set[str] = set()  # boxes whose workload never ends by itself
        self._client: Client | None = None
        OPEN.append(self)

    # -- life

    def launch(self, env: Mapping[str, str] | None = None, arguments: list[str] | None = None) -> None:
        """Start the daemon without waiting for it."""
        self.env = dict(env or {})
        self.set_failpoints("")
        argv = [*self.prefix, sys.executable, "-m", "boxlited.cli.boxlited", "serve", "--home", str(self.home)]
        argv += ["--socket", str(self.socket), "--log-format", "json", *(arguments or [])]
        if self.config is not None:
            argv += ["--config", str(self.config)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "BOXLITED_FAILPOINTS": f"@{self.failpoints}", **self.env},
            )

    def set_failpoints(self, text: str) -> None:
        """From now on, in the daemon that runs and all of its processes; none in one that is started anew."""
        fresh = self.failpoints.with_suffix(".new")
        fresh.write_text(text)
        fresh.rename(self.failpoints)

    def start(self, env: Mapping[str, str] | None = None, arguments: list[str] | None = None) -> Daemon:
        """Start the daemon and wait until it answers."""
        self.launch(env, arguments)
        self.wait_ready()
        return self

    def wait_ready(self) -> None:
        until(self._answers, f"the daemon gets ready; its log:\n{self.log_text()[-3000:]}", READY_SECONDS)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the daemon ended early:\n{self.log_text()[-3000:]}"
        try:
            self.client.health()
        except BoxlitedError:
            return False
        return True

    def kill9(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.drop_client()

    def wait_killed(self) -> None:
        """Wait until a failpoint has killed the daemon."""
        assert self.process is not None
        assert self.process.wait(timeout=DEADLINE_SECONDS) == -signal.SIGKILL, self.log_text()[-2000:]
        self.drop_client()

    def stop(self) -> int:
        """SIGTERM and wait: the boxes live on."""
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(timeout=DEADLINE_SECONDS)
        self.drop_client()
        return code

    def restart_after_kill(self, env: Mapping[str, str] | None = None) -> None:
        self.kill9()
        self.start(env)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
        if self.process is not None:
            self.process.wait()
        self.drop_client()
        for sentinel in self.sentinels:
            sentinel.kill()
            sentinel.wait()
        until(self._is_quiet, "shims and all other processes of this home end")
        cgroups.remove(self.home)
        CLOSED_LOGS[:] = [self.log_text()[-8000:]]
        OPEN.remove(self)
        shutil.rmtree(self.root, ignore_errors=True)

    def _is_quiet(self) -> bool:
        """Kills what there is; a spawner that a test held may fork one more shim before it ends.

        Daemon and shim both killed in the midst of a start: nobody is left to end bubblewrap's init but this.
        """
        shims = self.shims()
        for _box, pid in shims:
            kill_pid(pid)
        left = self.own_processes()
        for pid in left:
            with suppress(OSError):
                if not shims and Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].endswith(b"/bwrap"):
                    kill_pid(pid)
        return not shims and not left

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- looking

    @property
    def client(self) -> Client:
        if self._client is None:
            self._client = Client(self.socket, retry_seconds=0)
        return self._client

    def drop_client(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client = None

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def box_dir(self, box_id: str) -> Path:
        return self.home / "boxes" / box_id

    def shims(self) -> list[tuple[str, int]]:
        """(box id, pid) of every live shim of this home, read off the system, not off the daemon.

        What a shim forks looks like it until its exec, and is none: a shim's parent is never a shim.
        """
        found = []
        boxes = str(self.home / "boxes") + "/"
        for pid in _pids():
            with suppress(OSError):
                target = os.readlink(f"/proc/{pid}/fd/2")
                comm = Path(f"/proc/{pid}/comm").read_text().strip()
                stat = Path(f"/proc/{pid}/stat").read_text()
                parent = Path(f"/proc/{stat.rpartition(')')[2].split()[1]}/comm")
                forked = parent.exists() and parent.read_text().strip() == "boxlited-shim"
                if boxes in target and comm == "boxlited-shim" and is_alive(pid) and not forked:
                    found.append((target.partition(boxes)[2].split("/")[0], pid))
        return found

    def own_processes(self) -> list[int]:
        """Everything alive that holds or was started with a path of this home."""
        found = []
        mark = str(self.root).encode()
        for pid in _pids():
            with suppress(OSError):
                if mark in Path(f"/proc/{pid}/cmdline").read_bytes() and is_alive(pid) and pid != os.getpid():
                    found.append(pid)
        return found

    # -- boxes

    def create(self, cmd: list[str] | None = None, **spec: Any) -> dict[str, Any]:
        box = dict(self.client.create({"image": "host", "cmd": cmd or FOREVER, **spec}))
        if (cmd or FOREVER)[0] == FOREVER[0]:
            self.sleepers.add(box["box_id"])
        return box

    def run(self, cmd: list[str] | None = None, **spec: Any) -> dict[str, Any]:
        box = self.create(cmd, **spec)
        return dict(self.client.start(box["box_id"]))

    def get(self, ref: str) -> dict[str, Any]:
        return dict(self.client.get(ref))

    def wait_status(self, ref: str, *statuses: str) -> dict[str, Any]:
        return self.until_box(ref, lambda box: box["status"] in statuses, f"becomes {statuses}")

    def until_box(self, ref: str, holds: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """Wait until something holds for a box; returns its row of that moment."""

        def look() -> dict[str, Any] | None:
            box = self.get(ref)
            return box if holds(box) else None

        found = until(look, f"box {ref} {what}")
        assert found is not None
        return found

    def table(self) -> dict[str, dict[str, Any]]:
        """What must not change when nothing happens."""
        return {box["box_id"]: {key: box.get(key) for key in STABLE_KEYS} for box in self.client.list()}  # type: ignore[attr-defined]

    def event_log(self) -> list[tuple[int, str]]:
        """(number, kind) of every event from the beginning."""
        with self.client.events(0, follow=False) as events:
            return [(event["seq"], event["kind"]) for event in events]

    # -- the oracle

    def check_oracle(self, acknowledged: Mapping[str, str | None] | None = None) -> None:
        """The six invariants after a fault, and that no end is told that cannot be.

        `acknowledged`: box id -> status that was answered, if any.
        """
        for sentinel in self.sentinels:
            assert sentinel.poll() is None, "1: a stranger was signalled"
        before = self.table()
        events = self.event_log()
        shims = self.shims()
        owners = [box_id for box_id, _pid in shims]
        assert len(owners) == len(set(owners)), f"2: two live shims of one box: {shims}"
        for box_id, pid in shims:
            assert box_id in before, f"3: live shim {pid} of {box_id} is not listed"
            row = before[box_id]
            assert row["status"] in ("running", "stopping", "unknown"), f"3: live shim {pid}, row {row}"
            if row["status"] == "running":
                assert row["pid"] == pid
        for row in before.values():
            if row["status"] == "running":
                assert (row["box_id"], row["pid"]) in shims, f"3: said running without a shim: {row}"
        for box_id, status in (acknowledged or {}).items():
            assert box_id in before, f"4: acknowledged box {box_id} is lost"
            assert status is None or before[box_id]["status"] == status, f"4: {before[box_id]} is not {status}"
        self._check_told()
        self._check_leftovers(shims)
        self.restart_after_kill()
        assert self.table() == before, "5: a second restart changed something"
        assert self.shims() == shims, "5: a second restart changed the shims"
        assert self.event_log()[: len(events)] == events, "4: events that were told are lost or changed"
        self._check_leftovers(shims)
        on_disk = {entry.name for entry in (self.home / "boxes").iterdir()}
        present = {box_id for box_id, row in before.items() if row["stop_cause"] != "directory_missing"}
        assert on_disk == present, "6: directories and rows differ"

    def _check_told(self) -> None:
        """Who sleeps all day ends by a signal: whatever else is told of a box that ran is no truth."""
        for box_id, row in self.table().items():
            if box_id in self.sleepers and row["status"] == "stopped" and row["exit_code"] is not None:
                assert row["exit_code"] > 128, f"7: told to have ended by itself: {row}"

    def _check_leftovers(self, shims: list[tuple[str, int]]) -> None:
        """The sixth line; what is being cleared away is waited for."""
        assert self.process is not None
        pid = self.process.pid
        alive = {box_id for box_id, _pid in shims}
        self._is_rid(lambda: leftovers.of_boxes(pid, self.home, len(shims)), "descriptors")
        self._is_rid(lambda: leftovers.zombies(pid), "zombies")
        self._is_rid(lambda: self._strays(pid, shims), "processes")
        self._is_rid(lambda: leftovers.files(self.home), "files")
        self._is_rid(lambda: leftovers.groups(self.home, alive), "control groups")

    def _is_rid(self, look: Callable[[], list[Any]], what: str) -> None:
        found: list[Any] = []

        def is_empty() -> bool:
            found[:] = look()
            return not found

        try:
            until(is_empty, what, LEFTOVERS_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"6: {what} are left: {found}") from error

    def _strays(self, daemon: int, shims: list[tuple[str, int]]) -> list[int]:
        """Processes of this home that are neither the daemon's own nor in a box that runs."""
        ours = {daemon, *leftovers.descendants(daemon)}
        for _box, pid in shims:
            ours |= {pid, *leftovers.descendants(pid)}
        return [pid for pid in self.own_processes() if pid not in ours]


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]
