"""The service manager's side of the daemon: readiness, watchdog, stopping, sockets handed over."""

from __future__ import annotations

import http.client
import json
import os
import socket
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from boxlited.api.listeners import READ_ONLY_NAME
from boxlited.client.client import Client
from boxlited.client.connections import UnixConnection
from boxlited.errors import PermissionDenied
from tests.integration.daemon_harness import is_alive, kill_pid, until
from tests.integration.service_manager import REQUEST_SECONDS, ManagedDaemon, answer_of, is_silent, send_request

CONFIG = "[engines]\nenabled = ['sandbox', 'process']\n"
PERSONAL = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
SLOW_SECONDS = 0.003


@pytest.fixture
def daemon() -> Iterator[ManagedDaemon]:
    with ManagedDaemon(CONFIG) as one:
        yield one


# ---- readiness


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_ready_is_said_and_requests_are_answered_only_after_recovery(daemon: ManagedDaemon, kind: str) -> None:
    name = f"@boxlited-test-{os.getpid()}" if kind == "abstract" else str(daemon.root / "notify")
    notify = daemon.listen_notify(name)
    daemon.hand_over(daemon.socket)
    daemon.start()
    boxes = [daemon.run() for _ in range(5)]
    daemon.kill9()
    for box in boxes:
        kill_pid(box["pid"])
    until(lambda: not daemon.shims(), "the shims end")
    notify.heard()
    gate = daemon.root / "gate"
    os.mkfifo(gate)
    with send_request(daemon.socket, "/v1/boxes") as asked:
        daemon.launch({"BOXLITED_FAILPOINTS": f"apply.before_write=pause:{gate}@3"})
        with sqlite3.connect(daemon.home / "db" / "boxlited.db", isolation_level=None) as database:
            with gate.open("w"):  # opens once the daemon is in the midst of it
                database.execute("BEGIN IMMEDIATE")
            assert notify.next(0.5) is None, "ready, although a write of the recovery is held up"
            assert is_silent(asked)
            database.execute("ROLLBACK")
        database.close()
        message = notify.next()
        rows = answer_of(asked)["boxes"]
    assert daemon.process is not None
    assert message is not None
    assert {"READY=1", f"MAINPID={daemon.process.pid}"} <= set(message.splitlines())
    assert [row["status"] for row in rows] == ["stopped"] * len(boxes), "an answer of before recovery"


def test_a_daemon_that_cannot_serve_never_says_ready(daemon: ManagedDaemon) -> None:
    notify = daemon.listen_notify(str(daemon.root / "notify"))
    daemon.socket.parent.mkdir()
    daemon.socket.write_text("mine")
    daemon.launch()
    assert daemon.process is not None
    assert daemon.process.wait(REQUEST_SECONDS) == 73
    assert notify.heard() == []
    assert daemon.socket.read_text() == "mine"


# ---- watchdog


def test_pings_come_in_time_and_stop_when_the_event_loop_hangs(daemon: ManagedDaemon) -> None:
    interval = 1.5
    notify = daemon.listen_notify(str(daemon.root / "notify"))
    gate = daemon.root / "gate"
    os.mkfifo(gate)
    watchdog = {"WATCHDOG_USEC": str(int(interval * 1e6))}
    daemon.start({**watchdog, "BOXLITED_FAILPOINTS": f"stop.after_intent=pause:{gate}"})
    box = daemon.run()
    notify.until("WATCHDOG=1")
    times = []
    for _ in range(4):
        assert notify.next(interval) == "WATCHDOG=1"
        times.append(time.monotonic())
    assert statistics.median(b - a for a, b in pairwise(times)) < interval / 2
    stopping = threading.Thread(target=daemon.client.stop, args=(box["box_id"],))
    stopping.start()
    with gate.open("w"):  # opens once the loop is held there, with everything else alive
        assert daemon.process is not None
        assert is_alive(daemon.process.pid)
        notify.heard()
        assert notify.next(interval * 1.5) is None, "something pings that is not the event loop"
    assert notify.next() == "WATCHDOG=1"
    stopping.join(REQUEST_SECONDS)
    assert daemon.get(box["box_id"])["status"] == "stopped"


# ---- the end


def test_a_stop_is_announced_and_boxes_live_on(daemon: ManagedDaemon) -> None:
    notify = daemon.listen_notify(str(daemon.root / "notify"))
    box = daemon.start().run()
    assert "READY=1" in str(notify.next())
    assert daemon.stop() == 0
    messages = notify.heard()
    assert len(messages) == 1
    assert "STOPPING=1" in messages[0].splitlines()
    assert is_alive(box["pid"])


def test_a_drain_is_announced_before_it_begins() -> None:
    with ManagedDaemon("[shutdown]\non_stop = 'drain'\n") as daemon:
        notify = daemon.listen_notify(str(daemon.root / "notify"))
        gate = daemon.root / "gate"
        os.mkfifo(gate)
        box = daemon.start({"BOXLITED_FAILPOINTS": f"stop.after_intent=pause:{gate}"}).run()
        assert daemon.process is not None
        daemon.process.terminate()
        with gate.open("w"):
            notify.until("STOPPING=1")
            assert is_alive(box["pid"])
        assert daemon.process.wait(REQUEST_SECONDS) == 0
        assert not is_alive(box["pid"])


# ---- sockets handed over


def test_who_connects_before_the_daemon_is_there_is_answered_once_it_is(daemon: ManagedDaemon) -> None:
    daemon.hand_over(daemon.socket, "api")
    before = daemon.socket.lstat().st_ino
    with send_request(daemon.socket, "/v1/me") as asked:
        daemon.launch()
        assert answer_of(asked)["sub"] == f"uid:{os.geteuid()}"
    daemon.wait_ready()
    assert daemon.stop() == 0
    assert daemon.socket.lstat().st_ino == before, "the path belongs to the service manager"
    with send_request(daemon.socket, "/v1/boxes") as asked:
        daemon.launch()
        assert answer_of(asked)["boxes"] == []
    daemon.kill9()
    assert daemon.socket.lstat().st_ino == before


@pytest.mark.parametrize(("file", "name"), [("boxlited-ro.sock", "unknown"), ("monitor.sock", "api-ro")])
def test_the_read_only_socket_is_known_by_its_file_or_by_its_name(daemon: ManagedDaemon, file: str, name: str) -> None:
    daemon.hand_over(daemon.socket, "api")
    daemon.hand_over(daemon.root / file, name)
    daemon.start()
    with Client(daemon.root / file) as reader:
        assert reader.list() == []
        with pytest.raises(PermissionDenied):
            reader.create({"image": "host"})
    assert daemon.create()["status"] == "configured"


def test_a_read_only_socket_alone_does_not_leave_the_daemon_without_control(daemon: ManagedDaemon) -> None:
    daemon.hand_over(daemon.root / "monitor.sock", "api-ro")
    assert daemon.start().create()["status"] == "configured"


# ---- nothing is lost over restarts


@dataclass
class Load:
    """Threads that ask without a pause, each time on a new connection, and repeat nothing."""

    path: Path
    created: list[str] = field(default_factory=list)
    outcomes: list[tuple[float, float, Exception | None]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def run(self, number: int) -> None:
        count = 0
        while not self.over.is_set():
            count += 1
            began, failure = time.monotonic(), None
            try:
                self._ask(f"{number}-{count}" if count % 8 == 0 else None)
            except (OSError, http.client.HTTPException, AssertionError) as error:
                failure = error
            self.outcomes.append((began, time.monotonic(), failure))

    def _ask(self, name: str | None) -> None:
        with closing(UnixConnection(str(self.path))) as connection:
            connection.connect()
            connection.sock.settimeout(REQUEST_SECONDS)
            if name is None:
                time.sleep(SLOW_SECONDS)  # in which a daemon that stops has taken the connection, and nothing more
            if name is None:
                connection.request("GET", "/v1/boxes?pageSize=2")
            else:
                body = json.dumps({"image": "host", "name": f"box-{name}"})
                connection.request("POST", "/v1/boxes", body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            reply.read()
            assert reply.status in (200, 201), reply.status
            if name is not None:
                self.created.append(f"box-{name}")

    def served(self, since: float) -> int:
        return sum(began > since and failure is None for began, _end, failure in list(self.outcomes))


@pytest.mark.parametrize("end", ["kill -9", "SIGTERM"])
def test_no_connection_is_lost_over_restarts(daemon: ManagedDaemon, end: str) -> None:
    threads, deaths = 4, []
    daemon.hand_over(daemon.socket)
    daemon.start()
    load = Load(daemon.socket)
    workers = [threading.Thread(target=load.run, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    try:
        since = 0.0
        for _ in range(5):
            until(lambda moment=since: load.served(moment) >= 60, "requests are served")  # type: ignore[misc]
            since = time.monotonic()
            if end == "SIGTERM":
                assert daemon.stop() == 0
            else:
                daemon.kill9()
            deaths.append((since, time.monotonic()))
            daemon.launch()
        until(lambda: load.served(deaths[-1][1]) >= 60, "requests are served after the last restart")
    finally:
        load.over.set()
        for worker in workers:
            worker.join(REQUEST_SECONDS * 2)
    failures = [outcome for outcome in load.outcomes if outcome[2] is not None]
    if end == "SIGTERM":
        assert failures == [], "an orderly stop answers what it has taken and leaves the rest in the queue"
    for began, ended, failure in failures:
        in_flight = any(began < dead and ended >= asked for asked, dead in deaths)
        assert in_flight, f"lost although no daemon had it: {failure!r}"
    assert len(failures) <= threads * len(deaths)
    assert set(load.created) <= {box["name"] for box in daemon.client.list()}, "an acknowledged box is gone"


# ---- what is the daemon's alone


@pytest.mark.parametrize("engine", ["sandbox", "process"])
def test_neither_shims_nor_workloads_inherit_what_the_manager_gave(daemon: ManagedDaemon, engine: str) -> None:
    daemon.listen_notify(str(daemon.root / "notify"))
    daemon.hand_over(daemon.socket, "api")
    daemon.start({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "", "BOXLITED_MARK": "kept"})
    box = daemon.run(["sh", "-c", "env; echo ---; sleep 300"], engine=engine)
    until(lambda: b"---" in b"".join(daemon.client.logs(box["box_id"])), "the workload has said its environment")
    said = b"".join(daemon.client.logs(box["box_id"])).decode()
    listening = {f"socket:[{os.fstat(sock.fileno()).st_ino}]" for sock in daemon.handed}
    assert daemon.process is not None
    below = descendants(daemon.process.pid) | {box["pid"]} | descendants(box["pid"])
    assert len(below) >= 4  # spawner, shim, bubblewrap, workload
    for name in PERSONAL:
        assert f"{name}=" not in said
        for pid in below:
            assert f"{name}=".encode() not in Path(f"/proc/{pid}/environ").read_bytes(), (name, pid)
    for pid in below:
        links = {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}
        assert not links & listening, f"{pid} holds the listening socket"


def descendants(pid: int) -> set[int]:
    children = {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    return children.union(*(descendants(child) for child in children)) if children else set()


# The descriptors from 3 on belong to the test runner here, so a child process gets real ones.
CHILD = """
import json, os, sys
for number, fd in enumerate(json.loads(sys.argv[1])):
    os.dup2(fd, 100 + number)
for number in range(4):
    os.dup2(100 + number, 3 + number)
from boxlited.api.listeners import inherited
found = inherited({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "4"})
print(json.dumps([[l.address, l.read_only, l.rights is not None, l.sock.get_inheritable()] for l in found]))
"""


def test_sockets_of_the_service_manager_are_taken_and_its_other_descriptors_left(tmp_path: Path) -> None:
    with (
        socket.socket(socket.AF_UNIX) as full,
        socket.socket(socket.AF_UNIX) as reading,
        socket.create_server(("127.0.0.1", 0)) as tcp,
        open(tmp_path / "plain", "w") as plain,
    ):
        for sock, name in ((full, "b.sock"), (reading, READ_ONLY_NAME)):
            sock.bind(str(tmp_path / name))
            sock.listen()
        fds = [full.fileno(), plain.fileno(), reading.fileno(), tcp.fileno()]
        done = subprocess.run(
            [sys.executable, "-c", CHILD, json.dumps(fds)],
            pass_fds=fds, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [entry[1:] for entry in json.loads(done.stdout)] == [[False, True, False], [True, True, False]]
