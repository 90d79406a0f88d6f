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
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from boxlited.client.client import Client
from boxlited.errors import BoxlitedError
from tests.integration import cgroups, leftovers
from tests.integration.leftovers import is_alive  # noqa: F401 - for all who use the harness
from tests.oracle import STABLE_KEYS, Promised, World, broken, changed

READY_SECONDS = 30.0
DEADLINE_SECONDS = 30.0
LEFTOVERS_SECONDS = 10.0
FOREVER = ["/bin/sleep", "987654"]
DISK = "/var/tmp"

T = TypeVar("T")


def until(look: Callable[[], T], what: str, seconds: float = DEADLINE_SECONDS) -> T:
    """Poll until `look` gives something true; fails with `what` at the deadline.

    The last look is after the deadline: one who did not run for so long has seen nothing of what came.
    """
    began = time.monotonic()
    while True:
        waited = time.monotonic() - began
        is_last = waited >= seconds
        value = look()
        if value:
            return value
        assert not is_last, f"timed out: {what}"
        time.sleep(min(0.004 + waited / 25, 0.025))  # what is waited for needs the processor too


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

    def __init__(self, config: str | None = None, *, on_disk: bool = False, is_traced: bool = False) -> None:
        """`on_disk`: the home is on a disk, also where other tests have theirs in memory. `is_traced`: its system calls
        are counted, so it makes none for `set_failpoints`."""
        self.root = Path(tempfile.mkdtemp(prefix="bxt", dir=DISK if on_disk else None))
        self.home = self.root / "home"
        self.socket = self.root / "s" / "boxlited.sock"
        self.log = self.root / "daemon.log"
        self.failpoints = None if is_traced else self.root / "failpoints"
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
        points = {} if self.failpoints is None else {"BOXLITED_FAILPOINTS": f"@{self.failpoints}"}
        if points:
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
                env={**os.environ, **points, **self.env},
            )

    def set_failpoints(self, text: str) -> None:
        """From now on, in the daemon that runs and all of its processes; none in one that is started anew."""
        assert self.failpoints is not None
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
        """(box id, pid) of every live shim of this home, read off the system, not off the daemon."""
        return leftovers.shims(self.home)

    def own_processes(self) -> list[int]:
        """Everything alive that was started with a path of this home."""
        return leftovers.named(self.root)

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

    def check_oracle(self, acknowledged: Mapping[str, str | None] | None = None, removed: Collection[str] = ()) -> None:
        """The invariants after a fault, now and after one more restart, which must change nothing.

        `acknowledged`: box id -> status that was answered, if any. `removed`: boxes whose removal was.
        """
        promised = Promised(acknowledged or {}, removed)
        before = self.look()
        require(broken(before, promised))
        self.restart_after_kill()
        after = self.look(with_directories=True)
        require(broken(after, promised) + changed(before, after))

    def look(self, *, with_directories: bool = False) -> World:
        """What the oracle judges. Directories of nobody go to quarantine at a start."""
        assert self.process is not None
        rows, events, shims = self.table(), dict(self.event_log()), self.shims()
        return World(
            rows=rows,
            shims=shims,
            events=events,
            directories=[entry.name for entry in (self.home / "boxes").iterdir()] if with_directories else None,
            left=leftovers.left(self.process.pid, self.home, self.root, shims, LEFTOVERS_SECONDS),
            signalled=[sentinel.pid for sentinel in self.sentinels if sentinel.poll() is not None],
            sleepers=self.sleepers,
        )


def require(problems: list[str]) -> None:
    assert problems == [], "; ".join(problems)
